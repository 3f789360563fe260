"""The page's table of models: what needs help first, then what moves, then what is there."""

from __future__ import annotations

from typing import Final

from modelcache.api import ModelReport, ModelState, PageCache
from modelcache.planning.wording import Stage, duration, share, stage, state
from modelcache.service.page.facts import Facts, ago, code, counted, moment, short, text, tried
from modelcache.service.page.markup import Html, element, joined
from modelcache.service.page.tables import Column, badge, lines, table, tags
from modelcache.store import human_size

MOST_ROWS: Final = 500
"""So many models are shown; who has more looks at the JSON."""

_TONES: Final = {
    Stage.FAILING: "bad",
    Stage.UPDATE_FAILING: "bad",
    Stage.ON_THE_WAY: "busy",
    Stage.READY: "good",
}


def models(facts: Facts) -> Html:
    """What the section on models has below its heading."""
    assert facts.status is not None
    reports = sorted(facts.status.models, key=_rank)
    if not reports:
        none = "No model is here, and the catalog asks this node for none."
        return element("p", none, class_="none")
    measured = any(each.resident_bytes is not None for each in reports)
    columns = [
        Column("Model", lambda each: _name(each, facts)),
        Column("State", lambda each: _state(each, facts)),
        Column("Content", lambda each: _content(each, facts)),
        *([Column("In memory", _memory)] if measured else []),
        Column("Used", lambda each: _use(each, facts)),
    ]
    shown = table("Models, the ones that need help first", "model", columns, reports[:MOST_ROWS])
    more = len(reports) - MOST_ROWS
    if more <= 0:
        return shown
    link = element("a", "the report", href="v1/node")
    rest = element("p", f"and {counted(more, 'more model')}: ", link, " has them all.")
    return joined(shown, rest)


def _rank(model: ModelReport) -> tuple[int, int, str]:
    return stage(model), -model.priority, model.name


def _name(model: ModelReport, facts: Facts) -> Html:
    since = model.unwanted_since
    marks = [
        *([f"priority {model.priority}"] if model.priority else []),
        *(["pinned"] if model.pinned else []),
        *(["kept in memory"] if model.page_cache is not PageCache.NONE else []),
    ]
    unwanted = None
    if not model.wanted:
        moment = joined(" ", ago(since, facts.now)) if since else None
        unwanted = element("span", "not asked for any more", moment, class_="sub")
    return lines(
        joined(element("strong", text(model.name)), tags(marks)),
        _origin(model),
        unwanted,
    )


def _origin(model: ModelReport) -> Html | None:
    source = text(model.source) if model.source else None
    revision = code(short(model.revision)) if model.revision else None
    if source and revision:
        revision = joined(" ", element("span", revision, class_="whole"))
    return element("span", source, revision, class_="sub") if source or revision else None


def _state(model: ModelReport, facts: Facts) -> Html:
    now = stage(model)
    why = None
    if model.message or model.reason:
        reason = element("b", model.reason.value) if model.reason else None
        between = ": " if model.reason and model.message else None
        kind = "why bad" if now.is_failing else "why"
        why = element("span", reason, between, text(model.message), class_=kind)
    return lines(
        badge(state(model), _TONES.get(now, "calm")),
        why,
        tried(model, facts.now),
        _next(model),
        _missing(model, facts),
    )


def _missing(model: ModelReport, facts: Facts) -> Html | None:
    if not model.wanted or model.missing_since is None:
        return None
    since = (facts.now - model.missing_since).total_seconds()
    return element(
        "span", "missing for ", moment(model.missing_since, duration(since)), class_="sub"
    )


def _next(model: ModelReport) -> Html | None:
    if model.next_revision is None:
        return None
    return element("span", "fetching revision ", code(short(model.next_revision)), class_="sub")


def _content(model: ModelReport, facts: Facts) -> Html:
    total = human_size(model.bytes_total)
    if model.state in (ModelState.DOWNLOADING, ModelState.VERIFYING) and model.bytes_total:
        done = f"{human_size(model.bytes_done)} of {total}"
        bar = element(
            "progress",
            value=model.bytes_done,
            max=model.bytes_total,
            aria_label=f"{model.name}: {done}",
        )
        percent = element("b", share(model.bytes_done, model.bytes_total), class_="whole")
        rest = element("span", done, class_="whole")
        return lines(bar, joined(percent, " ", rest), _speed(model, facts))
    if not model.bytes_total:
        return element("span", "size not known yet", class_="sub") if model.wanted else Html("")
    files = f", {counted(model.files, 'file')}" if model.files else ""
    since = model.finished_at if model.state is ModelState.READY else None
    here = element("span", "ready ", ago(since, facts.now), class_="sub") if since else None
    return lines(total + files, here)


def _speed(model: ModelReport, facts: Facts) -> Html | None:
    rate = facts.rates.get(model.name)
    if rate is None or model.state is not ModelState.DOWNLOADING:
        return None
    left = model.bytes_total - model.bytes_done
    if rate < 1:
        told = "stands still"
    else:
        told = f"{human_size(round(rate))}/s, {duration(left / rate)} left"
    return element("span", told, class_="sub")


def _memory(model: ModelReport) -> Html:
    if model.resident_bytes is None or not model.bytes_total:
        return Html("")
    return joined(share(model.resident_bytes, model.bytes_total))


def _use(model: ModelReport, facts: Facts) -> Html:
    if model.used_by:
        return joined(f"by {model.used_by} now")
    if model.last_used_at is None:
        return Html("")
    return element("span", ago(model.last_used_at, facts.now), class_="sub")
