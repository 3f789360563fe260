from __future__ import annotations

from dataclasses import replace

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
