"""The page's sections beside the models: disk, compile caches, catalog, what happened."""

from __future__ import annotations

from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.planning.wording import duration, share
from modelcache.service.happenings import Happening
from modelcache.service.page.facts import Facts, ago, code, counted, moment, short, text, tried
from modelcache.service.page.markup import Child, Html, element, joined
from modelcache.service.page.tables import Column, badge, lines, table, tags
from modelcache.service.page.verdict import Trouble
from modelcache.store import human_size

_DAY = 86_400


def troubles(found: list[Trouble]) -> Html:
    """What is wrong with the node itself."""
    items = [element("li", element("b", each.what), ": ", text(each.message)) for each in found]
    return element("ul", *items)


def disk(facts: Facts) -> Html:
    """The disk, and what reads ahead for it."""
    assert facts.status is not None
    report = facts.status.disk
    most = report.budget or report.capacity
    taken = report.taken or report.used
    told = f" · {human_size(taken)} of {human_size(most)} that the cache may take"
    line = element("p", element("b", share(taken, most)), told)
    # No colour of its own where it is full: a cache is there to be full.
    bar = element("meter", min=0, max=max(1, most), value=min(taken, most), aria_label="Disk")
    free = f", {human_size(report.free)} free" if report.free else ""
    rows: list[tuple[str, Child]] = [
        ("Models and bundles", human_size(report.used)),
        ("Free for fetches", human_size(report.available)),
        ("Promised to fetches under way", human_size(report.reserved)),
        ("The file system", human_size(report.capacity) + free),
        ("Root", code(facts.status.root)),
    ]
    if report.inodes and report.inodes_free is not None:
        rows.insert(4, ("Free of its inodes", share(report.inodes_free, report.inodes)))
    if facts.watermarks is not None:
        high, low = facts.watermarks
        told = f"above {share(high, 1)}, down to {share(low, 1)}"
        rows.insert(3, ("Room is made", told))
    if facts.read_ahead is not None:
        device = joined(" for ", text(facts.read_ahead.device))
        rows.append(("Read-ahead now", joined(human_size(facts.read_ahead.bytes), device)))
    return joined(bar, line, _listed(rows))


def _listed(rows: list[tuple[str, Child]]) -> Html:
    pairs = [element("div", element("dt", name), element("dd", value)) for name, value in rows]
    return element("dl", *pairs)


def compile_caches(facts: Facts) -> Html:
    """The table of compile caches."""
    assert facts.status is not None
    columns: list[Column[CompileReport]] = [
        Column("Compile cache", _compile_name),
        Column("State", lambda each: _compile_state(each, facts)),
        Column("Bundle", lambda each: _bundle(each, facts)),
        Column("Last start", lambda each: _start(each, facts)),
    ]
    rows = sorted(facts.status.compile_caches, key=lambda each: (_calm(each), each.name))
    return table("Compile caches, the ones that need help first", "compile", columns, rows)


def _calm(report: CompileReport) -> bool:
    return not (report.attempts or report.reason or report.state is CompileState.FAILED)


def _compile_name(report: CompileReport) -> Html:
    of = element("span", "for ", text(report.accelerator), class_="sub")
    return lines(element("strong", text(report.name)), of if report.accelerator else None)


def _compile_state(report: CompileReport, facts: Facts) -> Html:
    tone = {
        CompileState.READY: "good",
        CompileState.FAILED: "bad",
        CompileState.DOWNLOADING: "busy",
    }.get(report.state, "calm")
    why = None
    if report.message or report.reason:
        reason = element("b", report.reason.value) if report.reason else None
        between = ": " if report.reason and report.message else None
        kind = "why" if _calm(report) else "why bad"
        why = element("span", reason, between, text(report.message), class_=kind)
    return lines(badge(report.state.value, tone), why, tried(report, facts.now))


def _bundle(report: CompileReport, facts: Facts) -> Html:
    number = counted(len(report.withdrawn), "bundle was", "bundles were")
    withdrawn = None
    if report.withdrawn:
        withdrawn = element("span", f"{number} withdrawn: starts here failed to load", class_="why")
    if report.digest is None:
        return lines(element("span", "none for this node's key", class_="sub"), withdrawn)
    size = f" {human_size(report.bytes)}" if report.bytes else ""
    made = tags(["made here, not published yet"]) if report.outgoing else None
    at = report.created_at
    captured = element("span", "captured ", ago(at, facts.now), class_="sub") if at else None
    verified = "a start has loaded it" if report.verified else "no start has loaded it yet"
    ready = report.state is CompileState.READY
    return lines(
        joined(code(short(report.digest)), size, made),
        captured,
        element("span", verified, class_="sub") if ready else None,
        withdrawn,
    )


def _start(report: CompileReport, facts: Facts) -> Html:
    start = report.last_start
    if start is None:
        return element("span", "none seen", class_="sub")
    tone = {"Hit": "good", "Miss": "bad"}.get(start.result, "calm")
    took = start.compile_milliseconds
    compiled = f", compiled for {duration(took / 1000)}" if took else ""
    why = None
    if start.reason or start.message:
        between = ": " if start.reason and start.message else None
        why = element(
            "span", element("b", start.reason), between, text(start.message), class_="why"
        )
    when = element("span", ago(start.at, facts.now), compiled, class_="sub")
    return lines(badge(start.result, tone), when, why)


def happenings(facts: Facts) -> Html:
    """What happened lately."""
    since = element(
        "p", "Since this agent started, ", ago(facts.since, facts.now), ".", class_="sub"
    )
    if not facts.happenings:
        return joined(since, element("p", "Nothing happened yet.", class_="none"))
    items = [_happening(each, facts) for each in facts.happenings]
    return joined(since, element("ol", *items, class_="happenings"))


def _happening(each: Happening, facts: Facts) -> Html:
    if (facts.now - each.at).total_seconds() > _DAY:
        when = moment(each.at, f"{each.at:%Y-%m-%d %H:%M} UTC")
    else:
        when = joined(moment(each.at), " ", ago(each.at, facts.now))
    return element(
        "li",
        element("span", when, class_="when"),
        badge(each.reason, "bad" if each.warns else "calm"),
        element(
            "span",
            element("strong", text(each.about), ": ") if each.about else None,
            text(each.note),
            element("span", f"{each.count} times", class_="tag") if each.count > 1 else None,
        ),
    )
