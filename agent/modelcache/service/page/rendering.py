"""The whole page: one document that needs nothing else, and the headers that keep it so."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Final

from modelcache.service.page import sections
from modelcache.service.page.facts import Facts, moment
from modelcache.service.page.markup import Child, Html, element
from modelcache.service.page.models import models
from modelcache.service.page.verdict import Level, Verdict, troubles, verdict

_COLOURS: Final = {Level.GOOD: "1a7f37", Level.BUSY: "0969da", Level.BAD: "cf222e"}
_SIGNS: Final = {Level.GOOD: "✓", Level.BUSY: "↓", Level.BAD: "✕"}


def page(facts: Facts) -> str:
    """The page as a document."""
    found = verdict(facts)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("title", _title(facts, found)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"modelcache {facts.version}"),
        element("link", rel="icon", id="icon", href=_icon(found.level)),
        Html(f"<style>{_asset('page.css')}</style>"),
    )
    body = element(
        "body",
        _header(facts, found),
        element("main", *_sections(facts)),
        _footer(facts),
        Html(f"<script>{_asset('page.js')}</script>"),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


@cache
def headers() -> Mapping[str, str]:
    """What an answer with the page says to browsers: nothing of others is loaded or run, nobody
    shows it in a frame, and nothing is guessed."""
    policy = {
        "default-src": "'none'",
        "style-src": _hash("page.css"),
        "script-src": _hash("page.js"),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


def _hash(name: str) -> str:
    digest = hashlib.sha256(_asset(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _title(facts: Facts, found: Verdict) -> str:
    name = facts.node.metadata.name if facts.node else "Model cache"
    rest = (
        f", {found.rest}" if found.level is not Level.GOOD and facts.wanted and found.rest else ""
    )
    return f"{name}: {found.headline}{rest}"


def _icon(level: Level) -> str:
    dot = f"<circle cx='8' cy='8' r='7' fill='%23{_COLOURS[level]}'/>"
    frame = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    return f"data:image/svg+xml,{frame}{dot}</svg>"


def _live(name: str, tag: str, *children: Child, **attributes: Child | bool) -> Html:
    """A part that the script brings up to date."""
    return element(tag, *children, id=name, data_live=True, **attributes)


def _header(facts: Facts, found: Verdict) -> Html:
    name = facts.node.metadata.name if facts.node else "This node"
    sign = element("span", _SIGNS[found.level], class_="sign", aria_hidden="true")
    words = element(
        "span", element("b", found.headline), element("span", found.rest, class_="rest")
    )
    made = facts.now - timedelta(seconds=facts.age)
    return element(
        "header",
        element("p", "Model cache", class_="kicker"),
        element("h1", element("bdi", name)),
        _live("verdict", "p", sign, words, role="status", class_=f"verdict {found.level}"),
        element(
            "p",
            _live("made", "span", "As of ", moment(made)),
            element("span", id="pace"),
            element(
                "button", "Pause", id="pause", type="button", aria_pressed="false", hidden=True
            ),
            element("a", "Reload", href="", id="reload"),
            class_="pace",
        ),
        element("p", id="lost", role="alert", class_="lost", hidden=True),
    )


def _sections(facts: Facts) -> list[Html]:
    status = facts.status
    wrong = troubles(facts)
    if status is None:
        return [_section("troubles", "Needs attention", sections.troubles(wrong), show=bool(wrong))]
    compiled = status.compile_caches
    parts = [
        ("models", "Models", len(status.models)),
        ("disk", "Disk", None),
        *([("compile-caches", "Compile caches", len(compiled))] if compiled else []),
        ("events", "Events", None),
    ]
    links = [
        element("li", element("a", words, f" ({n})" if n is not None else None, href=f"#{name}"))
        for name, words, n in parts
    ]
    objects = status.catalog.objects
    in_force = (
        "1 object of the catalog is" if objects == 1 else f"{objects} objects of the catalog are"
    )
    catalog = element("p", f"{in_force} in force.", class_="sub")
    return [
        _section("troubles", "Needs attention", sections.troubles(wrong), show=bool(wrong)),
        _live("parts", "nav", element("ul", *links), aria_label="Parts of this page"),
        _section("models", "Models", catalog, models(facts)),
        _section("disk", "Disk", sections.disk(facts)),
        _section(
            "compile-caches",
            "Compile caches",
            sections.compile_caches(facts) if compiled else None,
            show=bool(compiled),
        ),
        _section("events", "Events", sections.happenings(facts)),
    ]


def _section(name: str, heading: str, *children: Child, show: bool = True) -> Html:
    title = f"{name}-heading"
    return _live(
        name,
        "section",
        element("h2", heading, id=title),
        *children,
        aria_labelledby=title,
        hidden=not show,
    )


def _footer(facts: Facts) -> Html:
    links = (
        ("v1/node", "Report as JSON"),
        ("v1/events", "Events as JSON"),
        ("metrics", "Metrics"),
    )
    items = [element("li", element("a", words, href=href)) for href, words in links]
    return element(
        "footer",
        element("p", f"modelcache {facts.version}"),
        element("nav", element("ul", *items), aria_label="The same for programs"),
    )
