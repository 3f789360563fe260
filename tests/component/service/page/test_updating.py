"""The page brings itself up to date without taking anything from under who reads it."""

from __future__ import annotations

from dataclasses import replace

from modelcache.service.page import Facts
from tests.component.service.page.conftest import Served
from tests.support import pages
from tests.support.chromium import WIDE, Chromium, Page, Screen

_VERDICT = "document.querySelector('#verdict b').textContent"


def hurry(page: Page) -> None:
    """Have the next look now, as when a tab is looked at again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def await_in(page: Page, condition: str) -> None:
    """Wait until something is so in the page, by its own reckoning."""
    page.evaluate(
        f"""new Promise((done, fail) => {{
            const look = () => {{ if ({condition}) {{ watch.disconnect(); done(); }} }};
            const watch = new MutationObserver(look);
            watch.observe(document, {{subtree: true, childList: true, attributes: true,
                characterData: true}});
            setTimeout(() => fail(new Error("not in time: " + document.body.innerText)), 20000);
            look();
        }})"""
    )


def with_bytes(facts: Facts, done: int) -> Facts:
    """The same, with so many bytes of the first model that is being fetched."""
    assert facts.node is not None
    assert facts.status is not None
    models = tuple(
        each.model_copy(update={"bytes_done": done}) if each.name == "llama-3-3-70b" else each
        for each in facts.status.models
    )
    status = facts.status.model_copy(update={"models": models})
    return replace(facts, node=facts.node.model_copy(update={"status": status}))


def test_what_is_new_comes_by_itself_and_the_rest_stays(served: Served, chromium: Chromium) -> None:
    served.facts = pages.busy()
    with chromium.open(served.url, WIDE) as page:
        page.evaluate("window.bar = document.querySelector('progress'); bar.dataset.seen = 1; 0")
        page.evaluate("window.row = document.querySelector('#model-qwen3-32b'); 0")
        page.evaluate("document.querySelector('a[href=\"#disk\"]').focus()")
        page.evaluate("getSelection().selectAllChildren(row); 0")
        served.facts = with_bytes(pages.busy(), 100 << 30)
        hurry(page)
        await_in(page, "bar.value === 100 * 2 ** 30")
        assert page.evaluate("bar.isConnected && row.isConnected")
        assert page.evaluate("document.activeElement.hash") == "#disk"
        assert "qwen3-32b" in page.evaluate("getSelection().toString()")
        # Models come and go, and problems; no document is loaded for it.
        served.facts = pages.failing()
        hurry(page)
        await_in(page, "document.querySelector('#troubles').checkVisibility()")
        await_in(page, f"{_VERDICT} === '2 of 5 models ready'")
        assert page.evaluate("document.querySelector('#model-qwen2-7b')") is None
        assert page.evaluate("document.title").endswith(
            "3 failing, 1 update failing, 3 problems of the node itself"
        )
        assert page.evaluate("document.querySelectorAll('#models tbody tr').length") == 5
        assert page.loads == 1
        assert page.complaints == []


def test_it_looks_every_five_seconds(served: Served, chromium: Chromium) -> None:
    served.facts = pages.STARTING
    with chromium.open(served.url, WIDE) as page:
        assert page.evaluate("document.querySelector('#pace').textContent") == "updates every 5s"
        assert page.evaluate(_VERDICT) == "Starting"
        served.facts = pages.busy()
        # It has parts now that it had not: that comes as a whole.
        page.wait_for(lambda: page.loads == 2)
        assert page.evaluate(_VERDICT) == "3 of 6 models ready"
        assert page.complaints == []


def test_a_pause_is_kept(served: Served, chromium: Chromium) -> None:
    served.facts = pages.busy()
    with chromium.open(served.url, WIDE) as page:
        page.press("Tab")
        page.press("Enter")
        assert page.evaluate("document.querySelector('#pace').textContent") == "paused"
        assert page.evaluate("document.activeElement.ariaPressed") == "true"
        served.facts = with_bytes(pages.busy(), 1 << 30)
        asked = served.asked
        hurry(page)
        assert served.asked == asked
        page.press("Enter")
        await_in(page, "document.querySelector('progress').value === 2 ** 30")


def test_an_agent_that_is_gone_is_told_of_and_so_is_its_return(
    served: Served, chromium: Chromium
) -> None:
    served.facts = pages.busy()
    with chromium.open(served.url, WIDE) as page:
        page.ask(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        hurry(page)
        await_in(page, "!document.querySelector('#lost').hidden")
        said = page.evaluate("document.querySelector('#lost').textContent")
        assert said == "The agent does not answer; what is shown is as of 09:41:06 UTC."
        alerts = [each for each in page.accessible() if each["role"] == "alert"]
        assert len(alerts) == 1
        page.ask(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        hurry(page)
        await_in(page, "document.querySelector('#lost').hidden")


def test_without_scripts_it_is_whole_and_stands_still(served: Served, chromium: Chromium) -> None:
    served.facts = pages.busy()
    with chromium.open(served.url, Screen(1280, 800, scripts=False)) as page:
        assert page.evaluate(_VERDICT) == "3 of 6 models ready"
        assert not page.evaluate("document.querySelector('#pause').checkVisibility()")
        assert page.evaluate("document.querySelector('#made').textContent") == "As of 09:41:06 UTC"
        assert page.complaints == []


def test_what_is_hostile_runs_nowhere(served: Served, chromium: Chromium) -> None:
    names = [
        "<script>hacked = 1</script>",
        "<img src=x onerror='hacked = 1'>",
        '" onfocus="hacked = 1" autofocus tabindex="0',
        "</style></script><iframe src=//example.com></iframe>",
        "\u202eevil\x00\x1b[31m",
    ]
    served.facts = pages.with_names(pages.failing(), names)
    with chromium.open(served.url, WIDE) as page:
        hurry(page)
        page.wait_for(lambda: len(page.requests) >= 2)
        assert page.evaluate("typeof hacked") == "undefined"
        assert page.evaluate("document.querySelectorAll('iframe, img, [onfocus]').length") == 0
        assert page.evaluate("document.querySelectorAll('script').length") == 1
        shown = page.evaluate("document.querySelector('#models').textContent")
        assert names[0] in shown
        assert "\ufffdevil\ufffd\ufffd[31m" in shown
        assert not [each for each in page.requests if "example.com" in each]
        # Nor would it run, if it were markup.
        page.evaluate(
            "try { const made = document.createElement('script');"
            " made.textContent = 'hacked = 1'; document.body.append(made); } catch { }"
        )
        assert page.evaluate("typeof hacked") == "undefined"
