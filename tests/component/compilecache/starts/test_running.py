"""`modelcache compile run`: what is seeded, what is captured, and that the engine never pays."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.compilecache.bundles.unpacking import unpack
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.holding import Held, Holding
from modelcache.compilecache.starts.marks import WITHDRAWN_AFTER
from modelcache.store.durable import Durable
from modelcache.store.layout import Layout
from tests.support.agent import COMMAND, modelcache
from tests.support.cluster.waiting import eventually
from tests.support.trees import content

ENGINE = Path(__file__).parents[3] / "support" / "fakeengine.py"
NAME = "torch-fakeengine"
OBJECT = """\
apiVersion: modelcache.dev/v1alpha1
kind: CachedModel
metadata: {{name: tiny}}
spec: {{source: {{uri: "hf://org/tiny@main"}}}}
---
apiVersion: modelcache.dev/v1alpha1
kind: CompileCache
metadata: {{name: tiny-torch}}
spec:
  model: tiny
  engine:
    name: torch
    image: {image}
    args: [{engine}]
    env: [{{name: TORCH_SOMETHING, value: "1"}}]
    cacheDir: {cache_dir}
  bundles: {{uri: "file:///nowhere"}}
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str
    report: dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """A root, a cache directory, and starts with them."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def cache_dir(self) -> Path:
        return self.folder / "cache"

    @property
    def place(self) -> Path:
        return self.folder.parent / "place"

    @property
    def holding(self) -> Holding:
        layout = Layout(self.root)
        return Holding(layout, Durable(layout.scratch))

    @property
    def own_key(self) -> SigningKey:
        return SigningKey.load(self.root / "keys" / "compile.pem")

    def line(self, options: tuple[str | Path, ...], arguments: tuple[str, ...]) -> list[str]:
        report = ("--report", self.folder / "report.json")
        ours = ("--root", self.root, "--cache-dir", self.cache_dir, *report, *options)
        engine = (sys.executable, ENGINE, *arguments)
        return [COMMAND, "compile", "run", *map(str, (*ours, "--", *engine))]

    def start(
        self,
        *arguments: str,
        options: tuple[str | Path, ...] = (),
        env: dict[str, str] | None = None,
    ) -> Ended:
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        done = subprocess.run(
            self.line(options, arguments),
            env={**os.environ, "HOME": str(self.folder), **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
        )
        told = json.loads(report.read_text()) if report.exists() else {}
        return Ended(done.returncode, done.stdout, done.stderr, told)

    def begin(self, *arguments: str, options: tuple[str | Path, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.line(options, arguments),
            env={**os.environ, "HOME": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def forget_cache(self) -> None:
        shutil.rmtree(self.cache_dir, ignore_errors=True)

    def explain(self, *more: str | Path) -> list[dict[str, Any]]:
        asked = modelcache("compile", "explain", NAME, "--root", self.root, "-o", "json", *more)
        assert asked.returncode == 0, asked.stdout
        bundles: list[dict[str, Any]] = json.loads(asked.stdout)["bundles"]
        return bundles

    def sign_again(self, change: Callable[[Key], Key]) -> Held:
        """Hold the one bundle for another key instead: trusted, and for something else."""
        (held,) = self.holding.of(NAME)
        bundle = held.open()
        statement = bundle.statement.model_copy(update={"key": change(bundle.statement.key)})
        with self.holding.staging() as made:
            durable = Durable(Layout(self.root).scratch)
            LocalBundle.write(made, self.own_key.sign(statement), bundle.archive, durable)
            other = self.holding.add(made, NAME, statement.key.digest, statement.digest)
        self.holding.remove(NAME, held.key, held.digest)
        return other


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "machine"
    folder.mkdir()
    (tmp_path / "place").mkdir()
    return Machine(folder)


until = partial(eventually, timeout=60.0, pause=0.005)


def test_what_one_start_compiled_the_next_is_given(machine: Machine) -> None:
    first = machine.start()
    assert (first.code, first.out) == (0, "compiled\n")
    assert (first.report["result"], first.report["capturing"]["files"]) == ("Miss", 3)
    machine.forget_cache()
    second = machine.start()
    assert (second.code, second.out) == (0, "loaded\n")
    assert second.report["result"] == "Hit"
    assert second.report["seeding"]["digest"] == first.report["capturing"]["digest"]
    assert [each["state"] for each in machine.explain()] == ["Verified"]


def test_a_model_that_the_first_start_downloads_is_known_to_the_next(machine: Machine) -> None:
    """Its commit is part of the key, and nobody knows it before."""
    hub = Path(os.environ["HF_HOME"]) / "hub" / "models--org--tiny"
    served = ("--model", "org/tiny", "--downloads", str(hub))
    options = ("--engine", "vllm", "--name", NAME, "--bundles", machine.place)
    first = machine.start(*served, options=options)
    assert (first.out, hub.exists()) == ("compiled\n", True)
    assert first.report["key"]["model"]["revision"] == ""
    machine.forget_cache()
    second = machine.start(*served, options=options)
    assert second.out == "loaded\n"
    assert second.report["key"]["model"]["revision"] == "c" * 40
    # And a machine that has not downloaded it yet is given the same.
    shutil.rmtree(hub)
    machine.forget_cache()
    third = machine.start(*served, options=options)
    assert (third.out, third.report["key"]) == ("loaded\n", first.report["key"])
    assert len({each.key for each in machine.holding.of(NAME)}) == 2
    assert len(list(machine.place.glob("*/*/bundle.json"))) == 2


def test_a_directory_of_an_earlier_start_is_as_good(machine: Machine) -> None:
    machine.start()
    file = machine.cache_dir / "inductor" / "fxgraph" / "0.bin"
    inode = file.stat().st_ino
    assert machine.start().report["result"] == "Hit"
    assert file.stat().st_ino == inode
    assert len(machine.holding.of(NAME)) == 1


def test_a_start_that_wants_no_seed_compiles_whatever_is_there(machine: Machine) -> None:
    machine.start()
    ended = machine.start(options=("--no-seed",))
    assert (ended.out, ended.report["result"]) == ("compiled\n", "Miss")


def test_what_grew_is_captured_whole_as_a_new_generation_and_two_stay(machine: Machine) -> None:
    files = machine.folder / "files"
    for number in range(3, 7):
        files.write_text(str(number))
        machine.forget_cache()
        ended = machine.start("--files-of", str(files))
        assert ended.report["result"] == ("Miss" if number == 3 else "Partial")
        assert ended.report["capturing"]["files"] == number
    held = machine.holding.of(NAME)
    assert len({each.key for each in held}) == 1
    assert len(held) == 2
    current = machine.holding.current(NAME)
    assert current is not None
    assert current.open().statement.archive.files == 6


def test_no_secret_is_in_what_is_kept_published_or_told(machine: Machine, tmp_path: Path) -> None:
    secret = "correct-horse-battery-staple"
    model = f"https://user:{secret}@example.com/model?signature={secret}"
    ended = machine.start(
        *("--api-key", secret, "--model", model),
        options=("--bundles", machine.place, "--engine", "vllm", "--name", NAME),
        env={"HF_TOKEN": secret, "VLLM_API_KEY": secret, "TORCH_SOMETHING": secret},
    )
    assert secret in ended.out, "what the engine says passes through as it is"
    assert list(machine.cache_dir.rglob("cache_key_factors.json"))
    (envelope,) = machine.place.glob("*/*/bundle.json")
    bundle = LocalBundle.open(envelope.parent)
    assert any("torch.compile took" in line for line in bundle.statement.evidence.lines)
    unpack(bundle.archive, bundle.statement, tmp_path / "unpacked")
    assert len(content(tmp_path / "unpacked")) == 3
    kept = [content(machine.root), content(machine.place), content(tmp_path / "unpacked")]
    told = f"{ended.err}{ended.report}{bundle.statement.to_bytes()!r}{machine.explain()}"
    assert secret not in told
    assert [path for each in kept for path, data in each.items() if secret.encode() in data] == []


def test_other_machines_have_it_by_the_place(machine: Machine, tmp_path: Path) -> None:
    place = ("--bundles", machine.place)
    first = machine.start(options=place)
    assert first.report["capturing"]["place"] == machine.place.as_uri()
    public = machine.root / "keys" / "compile.pub"
    machine.forget_cache()
    shutil.move(machine.root, tmp_path / "other-root")
    second = machine.start(
        options=(*place, "--public-key", tmp_path / "other-root" / "keys" / public.name)
    )
    assert (second.out, second.report["seeding"]["source"]) == ("loaded\n", "place")


def test_the_engine_of_an_object_on_a_machine_that_has_no_root_yet(machine: Machine) -> None:
    catalog = machine.folder / "catalog.yaml"
    catalog.write_text(
        OBJECT.format(engine=ENGINE, cache_dir=machine.cache_dir, image=f"torch@sha256:{'ab' * 32}")
    )
    options = ("-f", catalog)
    first = machine.start(options=options, env={"TORCH_SOMETHING": "1"})
    (held,) = machine.holding.of("tiny-torch")
    assert first.report["capturing"]["digest"] == f"sha256:{held.digest}"
    machine.forget_cache()
    assert machine.start(options=options, env={"TORCH_SOMETHING": "1"}).out == "loaded\n"
    machine.forget_cache()
    other = machine.start(options=options)
    assert other.out == "compiled\n"
    assert "TORCH_SOMETHING is set there only" in other.report["seeding"]["message"]


def test_what_a_stranger_published_is_not_run(machine: Machine) -> None:
    machine.start(options=("--bundles", machine.place))
    machine.forget_cache()
    shutil.rmtree(machine.root)
    second = machine.start(options=("--bundles", machine.place, "--no-capture"))
    assert second.out == "compiled\n"
    assert "keys trusted here" in second.report["seeding"]["message"]
    assert machine.holding.of(NAME) == ()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Machine, Key]:
    """One with a bundle of a first start, for tests that sign it anew; and that start's key."""
    folder = tmp_path_factory.mktemp("started") / "machine"
    folder.mkdir()
    (folder.parent / "place").mkdir()
    machine = Machine(folder)
    machine.start()
    (held,) = machine.holding.of(NAME)
    return machine, held.open().statement.key


@pytest.mark.parametrize(
    ("part", "name", "change"),
    [
        ("accelerator", "", {"accelerator": {"product": "NVIDIA-H100-80GB-HBM3"}}),
        ("accelerator", "vendor", {"accelerator": {"vendor": "nvidia"}}),
        ("cpu", "", {"cpu": {"isa": "x86-64-v2"}}),
        ("engine", "identity", {"engine": {"identity": f"sha256:{'0' * 64}"}}),
        ("model", "", {"model": {"id": "hf://org/other"}}),
        ("parallel", "tensor", {"parallel": {"tensor": 2}}),
        ("trustDomain", "", {"trust_domain": "others"}),
    ],
)
def test_a_bundle_for_something_else_is_never_seeded_and_explain_names_the_part(
    started: tuple[Machine, Key], part: str, name: str, change: dict[str, Any]
) -> None:
    machine, key = started
    altered = key.model_copy(
        update={
            field: getattr(key, field).model_copy(update=value)
            if isinstance(value, dict)
            else value
            for field, value in change.items()
        }
    )
    other = machine.sign_again(lambda _: altered)
    machine.forget_cache()
    ended = machine.start(options=("--no-capture",))
    assert ended.out == "compiled\n"
    assert "digest" not in ended.report["seeding"]
    (bundle,) = machine.explain()
    assert (bundle["digest"], bundle["seeded"]) == (f"sha256:{other.digest}", False)
    assert (part, name) in [(each["part"], each["name"]) for each in bundle["differences"]]
    assert bundle["differences"][0]["message"] in ended.report["seeding"]["message"]


def test_a_bundle_with_a_changed_byte_is_removed_and_nothing_of_it_stays(machine: Machine) -> None:
    machine.start()
    machine.forget_cache()
    (held,) = machine.holding.of(NAME)
    held.archive.chmod(0o644)
    content = bytearray(held.archive.read_bytes())
    content[len(content) // 2] ^= 1
    held.archive.write_bytes(content)
    ended = machine.start(options=("--no-capture",))
    assert (ended.code, ended.out) == (0, "compiled\n")
    assert "damaged and was removed" in ended.report["seeding"]["message"]
    assert machine.holding.of(NAME) == ()


@pytest.mark.parametrize("code", [1, 3])
def test_what_failed_is_not_captured(machine: Machine, code: int) -> None:
    ended = machine.start("--exit", str(code))
    assert ended.code == code
    assert "digest" not in ended.report["capturing"]
    assert "with an error" in ended.report["capturing"]["message"]
    assert machine.holding.of(NAME) == ()


def test_an_engine_that_was_stopped_is_captured_at_its_end(machine: Machine) -> None:
    process = machine.begin("--serve")
    assert process.stdout is not None
    assert process.stdout.readline() == "compiled\n"
    until(lambda: (machine.cache_dir / "inductor" / "fxgraph" / "2.bin").exists())
    process.terminate()
    assert process.wait(60) == 0
    process.stdout.close()
    assert len(machine.holding.of(NAME)) == 1


def test_a_running_engine_is_captured_when_it_is_quiet(machine: Machine) -> None:
    process = machine.begin("--serve", options=("--quiet-time", "1s"))
    until(lambda: machine.root.exists() and machine.holding.current(NAME) is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert process.stdout is not None
    process.stdout.close()
    report = json.loads((machine.folder / "report.json").read_text())
    assert (report["result"], report["capturing"]["files"]) == ("Miss", 3)


def test_a_kill_in_the_middle_of_a_capture_leaves_nothing(machine: Machine) -> None:
    """Nothing is held or published; and the next start cleans up, and captures."""
    large = ("--bytes", "60000000")
    staging = machine.root / "ingest" / "captures"
    place = ("--bundles", machine.place)
    process = machine.begin(*large, options=place)
    until(lambda: staging.exists() and any(staging.glob("capture-*/*")))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert any(staging.glob("capture-*"))
    assert machine.holding.of(NAME) == ()
    assert list(machine.place.iterdir()) == []
    again = machine.start(*large, options=place)
    assert again.report["capturing"]["place"] == machine.place.as_uri()
    assert list(staging.glob("capture-*")) == []
    (published,) = machine.place.glob("*/*/bundle.json")
    assert LocalBundle.open(published.parent).digest == again.report["capturing"]["digest"]


def test_a_bundle_that_cannot_be_loaded_three_times_is_seeded_no_more(machine: Machine) -> None:
    machine.start("--failing", options=("--engine", "torch", "--no-capture"))
    machine.forget_cache()
    good = machine.start("--model", "x")
    assert good.report["capturing"]["digest"]
    # The same key, as far as it goes; but now the engine fails to load what it is given.
    (held,) = machine.holding.of(NAME)
    failing = machine.start("--failing", options=("--no-capture",))
    machine.sign_again(lambda _: Key.from_document(failing.report["key"]))
    (held,) = machine.holding.of(NAME)
    for _ in range(WITHDRAWN_AFTER):
        machine.forget_cache()
        ended = machine.start("--failing")
        assert ended.report["seeding"]["digest"] == f"sha256:{held.digest}"
        assert ended.report["evidence"]["loadFailures"] == 1
        assert "digest" not in ended.report["capturing"]
    machine.forget_cache()
    last = machine.start("--failing")
    assert "digest" not in last.report["seeding"]
    assert "withdrawn" in last.report["seeding"]["message"]
    (bundle,) = machine.explain()
    assert (bundle["state"], bundle["seeded"]) == ("Withdrawn", False)


def test_where_the_root_cannot_be_used_the_command_runs(machine: Machine) -> None:
    machine.root.write_text("no directory")
    ended = machine.start("--exit", "5")
    assert (ended.code, ended.out) == (5, "compiled\n")
    assert "runs without its compile cache" in ended.err


def test_where_a_key_is_missing_the_command_runs(machine: Machine) -> None:
    ended = machine.start(options=("--sign", machine.folder / "no.pem"))
    assert (ended.code, ended.out) == (0, "compiled\n")
    assert "no.pem can't be read" in ended.err


def test_a_cache_directory_with_something_else_in_it_is_left_alone(machine: Machine) -> None:
    machine.cache_dir.mkdir()
    (machine.cache_dir / "notes.txt").write_text("mine")
    ended = machine.start()
    assert (ended.code, ended.out) == (0, "compiled\n")
    assert "is not empty (notes.txt)" in ended.report["seeding"]["message"]
    assert (ended.report["result"], ended.report["message"]) == ("Unknown", "")
    assert {path.name for path in machine.cache_dir.iterdir()} <= {
        "notes.txt",
        ".modelcache-run.json",
    }
    assert machine.holding.of(NAME) == ()


def test_a_cache_directory_that_cannot_be_made_is_told_with_what_to_do(machine: Machine) -> None:
    machine.cache_dir.write_text("no directory")
    ended = machine.start()
    assert (ended.code, ended.out) == (0, "compiled\n")
    assert "give --cache-dir a directory" in ended.report["seeding"]["message"]


def test_a_start_of_which_no_key_is_known_says_why_nothing_is_captured(machine: Machine) -> None:
    report = machine.folder / "report.json"
    ours = ("--root", machine.root, "--cache-dir", machine.cache_dir, "--report", report)
    ended = modelcache("compile", "run", *ours, "--", "sh", "-c", "exit 3")
    assert ended.returncode == 3
    why = json.loads(report.read_text())["capturing"]["message"]
    assert why == "what the command was started for is not known"


def test_a_report_that_cannot_be_written_is_told(machine: Machine) -> None:
    ended = machine.start(options=("--report", machine.folder / "no" / "report.json"))
    assert (ended.code, ended.out) == (0, "compiled\n")
    assert f"could not be written: {machine.folder}/no/report.json: No such file" in ended.err


def test_what_explain_is_asked_wrongly(machine: Machine) -> None:
    machine.start()
    held = machine.holding.of(NAME)[0].directory
    for arguments, code, why in (
        (["typo"], 4, f"of a compile cache typo in {machine.root}; known there: {NAME}"),
        ([str(held.parent)], 4, "there is no bundle in"),
        ([str(held / "bundle.json")], 4, "give the directory that has its bundle.json"),
        ([NAME, "-f", "no.yaml"], 2, "-f says what a command is the engine of"),
    ):
        asked = modelcache("compile", "explain", *arguments, "--root", machine.root)
        assert (asked.returncode, why in asked.stderr) == (code, True), asked.stderr


def test_two_starts_do_not_share_a_cache_directory(machine: Machine, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    os.mkfifo(hold)
    first = machine.begin("--hold", str(hold))
    marker = machine.cache_dir / ".modelcache-run.json"
    until(lambda: marker.exists() and _is_locked(marker))
    second = machine.start()
    assert (second.code, second.out) == (0, "compiled\n")
    assert "another start has the cache directory" in second.report["seeding"]["message"]
    # Fails where nobody waits.
    os.close(os.open(hold, os.O_WRONLY | os.O_NONBLOCK))
    assert first.wait(60) == 0
    assert first.stdout is not None
    assert first.stdout.read() == "compiled\n"
    first.stdout.close()
    assert len(machine.holding.of(NAME)) == 1


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_place_that_never_answers_holds_the_engine_up_for_its_time(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"oci://127.0.0.1:{silent.getsockname()[1]}/bundles"
        began = time.monotonic()
        ended = machine.start(options=("--bundles", place, "--prepare-time", "1s"))
    assert (ended.code, ended.out) == (0, "compiled\n")
    assert time.monotonic() - began < 60
    assert "took too long" in ended.report["seeding"]["message"]


def test_what_the_user_has_set_stays_and_is_told(machine: Machine) -> None:
    own = machine.folder / "own"
    ended = machine.start(env={"TORCHINDUCTOR_CACHE_DIR": str(own)})
    assert (own / "fxgraph" / "0.bin").exists()
    assert any("TORCHINDUCTOR_CACHE_DIR is set" in note for note in ended.report["notes"])
    assert ended.report["reason"] == "CacheElsewhere"
    assert str(own) in ended.report["message"]
    assert machine.holding.of(NAME) == ()


def test_a_command_that_is_not_there_is_told_as_a_shell_does(machine: Machine) -> None:
    line = machine.line((), ())
    line[line.index(sys.executable)] = str(machine.folder / "no-such-engine")
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 127
    assert "no-such-engine can't be run" in done.stderr


def test_a_stop_before_the_engine_starts_ends_it(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        place = f"oci://127.0.0.1:{silent.getsockname()[1]}/bundles"
        process = machine.begin(options=("--bundles", place))
        connection, _ = silent.accept()
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
        connection.close()
    assert process.stdout is not None
    assert process.stdout.read() == ""
    process.stdout.close()


def test_what_became_of_it_as_one_document(machine: Machine) -> None:
    ended = machine.start(options=("-o", "json"))
    assert json.loads(ended.err)["kind"] == "CompileStart"
    assert machine.start(options=("--quiet",)).err == ""
