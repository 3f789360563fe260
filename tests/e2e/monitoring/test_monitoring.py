"""A real Prometheus watches a story: what it scraped answers what dashboards and alerts ask."""

from __future__ import annotations

from tests.e2e.monitoring.story import Story


def test_it(told: Story) -> None:
    prometheus = told.world.prometheus
    print(told.ended - told.began)
    names = (
        {
            s.labels["__name__"]: s
            for s in prometheus.query('last_over_time({__name__=~"modelcache_.+"}[5m])')
        }
        if 0
        else prometheus.label_values("__name__", '{__name__=~"modelcache_.+"}')
    )
    print("\n".join(names))
    print(prometheus.said)
