"""What keeps people from using a page: found by axe, and by looks of our own, in a real browser.

axe (https://github.com/dequelabs/axe-core) has the rules of WCAG 2.1, levels A and AA, that a
program can check, and its best practices. What it leaves out, or tells for large text only, is
looked at here: the contrast of each text, what sticks out of the screen, and how large what one
presses is.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

from tests.support.chromium import Page

_AXE: Final = """axe.run(document, {resultTypes: ["violations", "incomplete"]}).then(found =>
    [...found.violations,
     ...found.incomplete.filter(rule => rule.id !== "color-contrast")].flatMap(rule =>
        rule.nodes.map(node => `${rule.id}: ${node.target.join(" ")}: ${node.failureSummary}`)))"""

_TEXTS: Final = """(() => {
  const part = (value) => { value /= 255; return value <= 0.04045 ? value / 12.92
    : ((value + 0.055) / 1.055) ** 2.4; };
  // https://www.w3.org/TR/WCAG21/#dfn-relative-luminance
  const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = numbers(getComputedStyle(each).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
      if (found[3] !== 0) throw new Error("half of a background");
    }
    throw new Error("no background");
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) {
    const { parentElement: element, data } = walker.currentNode;
    if (!data.trim() || !element.checkVisibility() || element.closest(".hidden, style, script"))
      continue;
    const [a, b] = [numbers(getComputedStyle(element).color), ground(element)].map(luminance);
    texts.push([data, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return texts;
})()"""

_OUTSIDE: Final = """[...document.querySelectorAll("body *")].filter(each => {
  const box = each.getBoundingClientRect();
  return box.width > 1 && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(each => each.outerHTML.slice(0, 80))"""

_PRESSED: Final = """[...document.querySelectorAll("a, button")].filter(each => {
  const box = each.getBoundingClientRect();
  return each.checkVisibility() && (box.height < LEAST || box.width < LEAST);
}).map(each => each.outerHTML.slice(0, 80))"""


def violations(page: Page) -> list[str]:
    """What axe finds, and what it can't decide but for contrasts: see `contrasts`."""
    page.evaluate(files("axe_core_python").joinpath("axe.min.js").read_text() + "; 0")
    found: list[str] = page.evaluate(_AXE)
    return found


def contrasts(page: Page) -> dict[str, float]:
    """The least contrast that each text has with what is behind it."""
    found: dict[str, float] = {}
    for text, contrast in page.evaluate(_TEXTS):
        found[text] = min(contrast, found.get(text, contrast))
    return found


def sticking_out(page: Page) -> list[str]:
    """Elements that are not within the width of the screen, and the page where it scrolls."""
    found: list[str] = page.evaluate(_OUTSIDE)
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return [*found, *(["the page scrolls sideways"] if wide else [])]


def too_small_to_press(page: Page, least: int) -> list[str]:
    """Links and buttons that have fewer CSS pixels than that in height or width."""
    found: list[str] = page.evaluate(_PRESSED.replace("LEAST", str(least)))
    return found


def landmarks(heard: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Roles and names of what a screen reader can jump to."""
    roles = ("banner", "main", "navigation", "contentinfo", "region")
    return [(each["role"], each["name"]) for each in heard if each["role"] in roles]


def headings(heard: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Levels and texts."""
    return [
        (each["properties"]["level"], each["name"]) for each in heard if each["role"] == "heading"
    ]
