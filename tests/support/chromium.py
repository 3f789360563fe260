"""A real browser without a window: pages opened, looked at, and photographed.

Chromium is spoken to in the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)
over two pipes: no port is opened, and no library is needed. The browser sees loopback and nothing
else: every other name resolves to nothing.

    with Chromium() as chromium, chromium.open("http://127.0.0.1:8080/", NARROW) as page:
        assert page.evaluate("document.title") == "node-1"
        Path("page.png").write_bytes(page.picture())
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, Self, cast

_SECONDS: Final = 60.0
"""What the browser may take for one thing: it starts slowly on a machine with much to do."""

_FLAGS: Final = (
    *("--headless", "--remote-debugging-pipe", "--no-first-run", "--mute-audio"),
    *("--disable-gpu", "--disable-extensions", "--disable-sync", "--disable-default-apps"),
    *("--disable-background-networking", "--disable-component-update", "--disable-breakpad"),
    # Nothing but loopback, whatever a page or the browser itself would like to ask.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE [::1]",
    "--no-proxy-server",
    # The same picture on each machine that has the same fonts.
    *("--font-render-hinting=none", "--force-color-profile=srgb", "--disable-lcd-text"),
)


@dataclass(frozen=True, slots=True)
class Screen:
    """What a page is looked at with."""

    width: int
    """In CSS pixels, as the height."""
    height: int
    scale: float = 1.0
    """Real pixels for each CSS pixel."""
    dark: bool = False
    """What the page is told of `prefers-color-scheme`."""
    paper: bool = False
    """Whether it is to be printed."""
    scripts: bool = True
    """Whether the page's scripts run."""


WIDE: Final = Screen(1280, 800)
NARROW: Final = Screen(360, 740, scale=2.0)


class BrowserError(Exception):
    """The browser can't do what it was told, or ended."""


_Event = dict[str, Any]


class _Pipe:
    """Commands there and answers back; events go to the session that they belong to."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._out = process.stdin
        self._in = cast("BufferedReader", process.stdout)
        self._ids = itertools.count(1)
        self._answers: dict[int, _Event] = {}
        self._listeners: dict[str, Callable[[_Event], None]] = {}
        self._ended = False
        self.news = threading.Condition()
        """Notified of each answer, and after each event."""
        self._thread = threading.Thread(target=self._read, name="chromium", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        rest = b""
        with self._in:
            while came := self._in.read1(1 << 20):
                *messages, rest = (rest + came).split(b"\0")
                with self.news:
                    for each in map(json.loads, messages):
                        self._take(each)
                    self.news.notify_all()
        with self.news:
            self._ended = True
            self.news.notify_all()

    def _take(self, message: _Event) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        elif (listener := self._listeners.get(message.get("sessionId", ""))) is not None:
            listener(message)

    def listen(self, session: str, listener: Callable[[_Event], None] | None) -> None:
        """Have somebody told of a session's events, in the pipe's thread; or nobody more."""
        with self.news:
            if listener is None:
                self._listeners.pop(session, None)
            else:
                self._listeners[session] = listener

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so.

        Raises:
            BrowserError: it is not in time, or the browser has ended.
        """
        with self.news:
            self.news.wait_for(lambda: self._ended or condition(), _SECONDS)
            if not condition():
                why = "the browser ended" if self._ended else f"not within {_SECONDS:.0f} s"
                raise BrowserError(f"{what}: {why}")

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command, and wait for what it gives.

        Raises:
            BrowserError: it is refused, or there is no answer.
        """
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        try:
            self._out.write(json.dumps(message).encode() + b"\0")
            self._out.flush()
        except OSError as error:
            raise BrowserError(f"{method}: the browser ended") from error
        self.wait(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error'].get('message')}")
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """After the browser's end."""
        self._thread.join(_SECONDS)
        with suppress(OSError):  # what was not sent any more
            self._out.close()


class Chromium:
    """A browser, from its start to its end."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            made = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
            home = stack.enter_context(made)
            self._said = stack.enter_context(Path(home, "said").open("w+b"))
            self._process = self._start(home)
            self._pipe = _Pipe(self._process)
            stack.callback(self._pipe.close)
            stack.callback(self._kill)
            try:
                self.version = str(self._pipe.ask("Browser.getVersion")["product"])
            except BrowserError as error:
                self._said.seek(0)
                raise BrowserError(f"{error}; it said: {self._said.read().decode()}") from error
            self._stack = stack.pop_all()

    def _start(self, home: str) -> subprocess.Popen[bytes]:
        # As root it has no sandbox; what it opens is ours.
        flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        # What it calls 3 and 4 are our pipes, and stay so through Debian's launcher.
        script = 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null'
        return subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", "chromium", *flags, f"--user-data-dir={home}/profile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            # No settings, caches or sockets of whoever runs the tests.
            env={"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )

    def _kill(self) -> None:
        """End it, and all of its processes: they are a session of their own."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait(_SECONDS)

    @property
    def pid(self) -> int:
        """Its first process, and the group of all that it started."""
        return self._process.pid

    def close(self) -> None:
        """End it."""
        with suppress(BrowserError):
            self._pipe.ask("Browser.close")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def open(self, url: str, screen: Screen = WIDE) -> Iterator[Page]:
        """A page in a profile of its own, loaded.

        Raises:
            BrowserError: it can't be loaded.
        """
        context = self._pipe.ask("Target.createBrowserContext")["browserContextId"]
        target = self._pipe.ask("Target.createTarget", url="about:blank", browserContextId=context)[
            "targetId"
        ]
        attached = self._pipe.ask("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self._pipe, attached["sessionId"])
        try:
            page.look_with(screen)
            page.go(url)
            yield page
        finally:
            self._pipe.listen(attached["sessionId"], None)
            with suppress(BrowserError):
                self._pipe.ask("Target.disposeBrowserContext", browserContextId=context)

    @contextmanager
    def show(self, html: str, screen: Screen = WIDE) -> Iterator[Page]:
        """A document of ours as a page."""
        encoded = base64.b64encode(html.encode()).decode()
        with self.open(f"data:text/html;charset=utf-8;base64,{encoded}", screen) as page:
            yield page


@dataclass(slots=True)
class Response:
    """What a server answered."""

    url: str
    status: int
    headers: Mapping[str, str]


@dataclass
class Page:
    """An open page. What it asked for and what went wrong is noted from its first byte on."""

    pipe: _Pipe
    session: str
    requests: list[str] = field(default_factory=list)
    """URLs that were asked for, in their order."""
    responses: list[Response] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings: of the console, of scripts, of policies, of requests that failed."""
    loads: int = 0
    """How many times a document was loaded."""

    def __post_init__(self) -> None:
        self.pipe.listen(self.session, self._heard)
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility"):
            self.ask(f"{domain}.enable")

    def _heard(self, event: _Event) -> None:
        method, told = event["method"], event["params"]
        if method == "Page.loadEventFired":
            self.loads += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Network.responseReceived":
            got = told["response"]
            self.responses.append(Response(got["url"], got["status"], got["headers"]))
        elif method == "Network.loadingFailed" and not told.get("canceled"):
            self.complaints.append(f"{told['type']}: {told['errorText']}")
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.complaints.append(" ".join(str(each.get("value")) for each in told["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(told["exceptionDetails"]["text"])

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Any command of the protocol, for this page.

        Raises:
            BrowserError: it is refused.
        """
        return self.pipe.ask(method, self.session, **parameters)

    def look_with(self, screen: Screen) -> None:
        """Look at it with another screen."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=screen.width,
            height=screen.height,
            deviceScaleFactor=screen.scale,
            mobile=screen.width < 600,
        )
        self.ask(
            "Emulation.setEmulatedMedia",
            media="print" if screen.paper else "screen",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if screen.dark else "light"},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )
        self.ask("Emulation.setScriptExecutionDisabled", value=not screen.scripts)

    def go(self, url: str) -> None:
        """Load another document.

        Raises:
            BrowserError: it can't be had.
        """
        loads = self.loads
        failed = self.ask("Page.navigate", url=url).get("errorText")
        if failed:
            raise BrowserError(f"{url}: {failed}")
        self.pipe.wait(lambda: self.loads > loads, url)

    def wait_for(self, condition: Callable[[], bool], what: str = "the page") -> None:
        """Wait until what the page noted is so; asked again whenever the browser says something.

        Raises:
            BrowserError: it is not in time.
        """
        self.pipe.wait(condition, what)

    def evaluate(self, script: str) -> Any:
        """What an expression gives in the page, as JSON would have it; a promise is awaited.

        Raises:
            BrowserError: it throws.
        """
        got = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            thrown = got["exceptionDetails"]
            raise BrowserError(thrown.get("exception", {}).get("description", thrown["text"]))
        return got["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, such as `Tab` or `Enter`."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}.get(key, 0)
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        both = {"key": key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **both, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **both)

    def accessible(self) -> list[dict[str, Any]]:
        """The tree that a screen reader is given, as a list in the document's order.

        Each node has `role`, `name`, `description`, `value` and its `properties` by their names.
        """
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        by_id = {node["nodeId"]: node for node in nodes}
        heard, ahead = [], [nodes[0]["nodeId"]]
        while ahead:
            node = by_id.get(ahead.pop())
            if node is None:
                continue
            ahead += reversed(node.get("childIds", ()))
            if not node.get("ignored") and node["role"]["value"] != "InlineTextBox":
                heard.append(_said(node))
        return heard

    def picture(self, selector: str | None = None, *, most_height: int | None = None) -> bytes:
        """A PNG of the whole page, or of the first element that a selector finds; of no more than
        so many CSS pixels of its height.

        Raises:
            BrowserError: there is no such element.
        """
        box = (
            "({x: 0, y: 0, width: innerWidth, height: document.documentElement.offsetHeight})"
            if selector is None
            else f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        )
        clip = {each: self.evaluate(box)[each] for each in ("x", "y", "width", "height")}
        if most_height is not None:
            clip["height"] = min(clip["height"], most_height)
        taken = self.ask(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=True,
            clip={**clip, "scale": 1},
        )
        return base64.b64decode(taken["data"])

    def reload(self) -> None:
        """Load it again."""
        loads = self.loads
        self.ask("Page.reload")
        self.pipe.wait(lambda: self.loads > loads, "reload")


def _said(node: Mapping[str, Any]) -> dict[str, Any]:
    whats = ("role", "name", "description", "value")
    properties = {each["name"]: each["value"].get("value") for each in node.get("properties", ())}
    return {
        **{what: node.get(what, {}).get("value", "") for what in whats},
        "properties": properties,
    }
