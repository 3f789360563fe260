"""A row about the controller and the webhook, which speak for a whole cluster."""

from __future__ import annotations

from dashboards import shared
from dashboards.boards import Row, evenly
from dashboards.panels import graph, number, per_step
from dashboards.queries import CLUSTER, RATE, each, grown, of, quantile
from dashboards.style import COUNT, SECONDS, Query


def control_plane() -> Row:
    """Whether they are well."""
    ends = of("modelcache_webhook_certificate_expiry_timestamp_seconds", *CLUSTER)
    answer = "modelcache_webhook_review_seconds"
    writes = of("modelcache_controller_writes_total", *CLUSTER)
    taints = of("modelcache_controller_startup_taints_removed_total", *CLUSTER)
    return Row(
        "Are the controller and the webhook well?",
        [
            evenly(
                8,
                graph(
                    "Watches that fail",
                    "Resources that the controller or the webhook can't list or watch now.",
                    *_of_both("watch_failing"),
                    unit=COUNT,
                ),
                graph(
                    "Objects that are watched",
                    "How many objects of each resource the controller and the webhook know.",
                    *_of_both("objects"),
                    unit=COUNT,
                ),
                per_step(
                    "Writes of the controller",
                    "Writes to the API server in each step of the graph by their result: ok,"
                    " conflict (tried again) or error.",
                    Query(grown(writes, "resource, result", RATE), "{{resource}} {{result}}"),
                ),
                per_step(
                    "Startup taints taken off",
                    "Nodes that were opened to pods in each step of the graph: because their models"
                    " were ready, or because the deadline had passed.",
                    Query(grown(taints, "cause", RATE), "{{cause}}"),
                ),
            ),
            evenly(
                8,
                shared.pods_seen(),
                graph(
                    "Answers of the webhook",
                    "How long answers took: half of them, and all but one in a hundred, at most"
                    " this. The API server waits for two seconds, and then creates the pod as it"
                    " is.",
                    Query(quantile(0.5, answer, *CLUSTER, over=RATE), "half"),
                    Query(quantile(0.99, answer, *CLUSTER, over=RATE), "99%"),
                    unit=SECONDS,
                ),
                number(
                    "The webhook's certificate ends in",
                    "Of the replica whose certificate ends first. It is made anew by itself.",
                    f"min({ends}) - time()",
                    unit=SECONDS,
                    steps=((None, "red"), (86400, "yellow"), (7 * 86400, "green")),
                    none="no webhook",
                ),
            ),
        ],
    )


def _of_both(metric: str) -> list[Query]:
    """What the controller and the webhook say of each resource."""
    return [
        Query(
            each("resource", of(f"modelcache_{program}_{metric}", *CLUSTER)),
            f"{program}: {{{{resource}}}}",
        )
        for program in ("controller", "webhook")
    ]
