from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import structlog

from modelcache.api import CachedModel, ModelReport, ModelState, PageCache
from modelcache.catalog import Catalog, Document, Problem
from modelcache.planning.describing import Paths
from modelcache.planning.planner import Fetch, Running
from modelcache.service.inventory import Snapshots
from modelcache.service.progress import ProgressBook
from modelcache.service.telling import Telling, is_missing
from modelcache.transfer.events import BytesReceived, FetchStarted
from tests.unit.planning.samples import held, manifest, model, source_of

M = model()
THERE: dict[str, Snapshots] = {"m": [(held(M), manifest())]}
BROKEN = Catalog.of(problems=[Problem("f.yaml", "is not YAML")])
BEFORE = ModelReport(
    name="m", state=ModelState.READY, priority=7, pinned=True, page_cache=PageCache.WARM
)


def of_models(*models: CachedModel, broken: bool = False) -> Catalog:
    catalog = Catalog.of(Document(object=m, file="f.yaml", number=1, line=1) for m in models)
    return replace(catalog, problems=BROKEN.problems) if broken else catalog


def telling(progress: ProgressBook | None = None, **remembered: ModelReport) -> Telling:
    return Telling(
        progress or ProgressBook(), lambda name: Paths(f"/{name}", f"/hub/{name}"), remembered
    )


def only(told: Telling) -> ModelReport:
    reports = told.reports()
    assert reports is not None
    (report,) = reports
    return report


def test_nothing_is_said_before_the_first_look() -> None:
    assert telling().reports() is None


def test_what_a_broken_document_may_be_about_stays_wanted_as_it_was() -> None:
    told = telling(m=BEFORE)
    told.catalog_read(BROKEN)
    told.update({}, THERE, {}, {})
    report = only(told)
    assert (report.wanted, report.priority, report.pinned) == (True, 7, True)
    assert report.page_cache is PageCache.WARM
    assert report.state is ModelState.READY


def test_a_catalog_without_problems_says_what_is_wanted() -> None:
    told = telling(m=BEFORE)
    told.catalog_read(BROKEN)
    told.catalog_read(Catalog.of())
    told.catalog_read(BROKEN)
    told.update({}, THERE, {}, {})
    assert not only(told).wanted


def test_what_a_catalog_has_spoken_of_is_remembered_no_longer() -> None:
    told = telling(m=BEFORE)
    told.catalog_read(of_models(M, broken=True))
    told.catalog_read(BROKEN)  # taken out, while another document stays broken
    told.update({}, THERE, {}, {})
    assert not only(told).wanted


def test_reports_have_the_progress_of_the_moment() -> None:
    book = ProgressBook()
    told = telling(book)
    book(FetchStarted("m", "rev", "hf", files=1, size=100, held=0))
    told.update({"m": M}, {}, {}, {"m": Running(Fetch, source_of(M))})
    book(BytesReceived("m", "hf", 40))
    assert (only(told).state, only(told).bytes_done) == (ModelState.DOWNLOADING, 40)


def test_a_report_that_is_no_news_is_the_same_object() -> None:
    told = telling()
    told.update({"m": M}, THERE, {}, {})
    first = only(told)
    told.update({"m": M}, THERE, {}, {})
    assert only(told) is first


def test_readiness_is_logged_once() -> None:
    told = telling()
    with structlog.testing.capture_logs() as logs:
        told.update({"m": M}, {}, {}, {})
        told.update({"m": M}, THERE, {}, {})
        told.update({"m": M}, THERE, {}, {})
    assert [(line["event"], line["model"]) for line in logs] == [("model.ready", "m")]


def test_what_is_missing() -> None:
    assert is_missing(ModelReport(name="m", state=ModelState.FAILED))
    assert not is_missing(ModelReport(name="m", state=ModelState.READY))
    assert not is_missing(ModelReport(name="m", state=ModelState.EVICTED, wanted=False))


def test_what_is_in_memory_is_told_of_what_is_ready() -> None:
    asked: list[tuple[str, str | None]] = []

    def resident(name: str, revision: str | None) -> int:
        asked.append((name, revision))
        return 42

    told = Telling(
        ProgressBook(), lambda name: Paths(f"/{name}", f"/hub/{name}"), resident=resident
    )
    told.update({"m": M}, {}, {}, {})
    assert only(told).resident_bytes is None
    told.update({"m": M}, THERE, {}, {})
    assert only(told).resident_bytes == 42
    assert asked == [("m", only(told).revision)]


# Since when


class Turned:
    """A book of what is told, with a clock that tests turn."""

    def __init__(self, **remembered: ModelReport) -> None:
        self.now = 1_800_000_000.0
        self.ready: list[tuple[str, float]] = []
        self.gone: list[str] = []
        self.told = Telling(
            ProgressBook(),
            lambda name: Paths(f"/{name}", f"/hub/{name}"),
            remembered,
            on_ready=lambda report, seconds: self.ready.append((report.name, seconds)),
            on_gone=lambda names: self.gone.extend(names),
            clock=lambda: self.now,
        )

    def look(
        self,
        model: CachedModel | None,
        *,
        there: bool,
        after: float = 10.0,
        leaving: str | None = None,
    ) -> ModelReport:
        self.now += after
        self.told.catalog_read(of_models(*filter(None, [model])))
        self.told.update(
            {"m": model} if model else {},
            THERE if there else {},
            {},
            {},
            leaving={"m": leaving} if leaving else {},
        )
        return only(self.told)

    def at(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(1_800_000_000 + seconds, UTC)


def test_it_is_told_since_when_a_model_is_wanted_and_missing() -> None:
    book = Turned()
    report = book.look(M, there=False)
    assert report.wanted_since == report.missing_since == book.at(10)
    report = book.look(M, there=False)
    assert report.wanted_since == report.missing_since == book.at(10)
    report = book.look(M, there=True)
    assert (report.wanted_since, report.missing_since) == (book.at(10), None)
    assert book.ready == [("m", 20.0)]
    book.look(M, there=True)
    assert book.ready == [("m", 20.0)], "once"


def test_what_was_lost_is_missing_from_then_on() -> None:
    book = Turned()
    book.look(M, there=True)
    report = book.look(M, there=False, after=5000.0)
    assert (report.wanted_since, report.missing_since) == (book.at(10), book.at(5010))
    book.look(M, there=True, after=30.0)
    assert book.ready == [("m", 30.0)], "what was there at first took no time"


def test_what_was_about_to_leave_and_stayed_took_no_time() -> None:
    book = Turned()
    book.look(M, there=True)
    assert book.look(M, there=True, leaving="for m2").state is ModelState.EVICTED
    assert book.look(M, there=True).state is ModelState.READY
    assert book.ready == []
    # The one that went and came again was missing since it was about to leave.
    book.look(M, there=True, leaving="for m2")
    book.look(M, there=False)
    book.look(M, there=True)
    assert book.ready == [("m", 20.0)]


def test_what_is_gone_is_told_of_once_nothing_runs_for_it() -> None:
    book = Turned()
    book.look(M, there=False)
    book.told.update({}, {}, {}, {"m": Running(Fetch, source_of(M))})
    assert (book.told.reports(), book.gone) == ((), [])
    book.told.update({}, {}, {}, {})
    book.told.update({}, {}, {}, {})
    assert book.gone == ["m"], "once"
    book.look(None, there=True)
    assert book.gone == ["m"], "it is here, wanted or not"


def test_another_source_is_wanted_from_then_on() -> None:
    book = Turned()
    book.look(M, there=False)
    other = model(uri="hf://org/other")
    assert book.look(other, there=False).wanted_since == book.at(20)
    report = book.look(None, there=True)
    assert (report.wanted_since, report.missing_since) == (None, None)
    assert book.look(other, there=False).wanted_since == book.at(40)
    assert book.ready == []


def test_a_restart_changes_nothing_about_it() -> None:
    before = Turned()
    former = before.look(M, there=False)
    book = Turned(m=former)
    book.now += 600.0
    book.told.catalog_read(BROKEN)
    assert book.look(M, there=False).wanted_since == former.wanted_since
    report = book.look(M, there=True)
    assert (report.wanted_since, report.missing_since) == (former.wanted_since, None)
    assert book.ready == [("m", 610.0)]


def test_who_was_not_wanted_meanwhile_begins_anew() -> None:
    before = Turned()
    former = before.look(M, there=False)
    book = Turned(m=former)
    book.now += 600.0
    book.told.catalog_read(of_models())
    book.told.update({}, {}, {}, {})
    assert book.look(M, there=False).wanted_since == book.at(610)
