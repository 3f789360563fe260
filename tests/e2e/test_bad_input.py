"""Bad input: each mistake is told in a line, and the models beside it are served."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import AgentProcess, modelcache, told_failure, write_catalog
from tests.support.hub import FlipBit, HubServer
from tests.support.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server

REPO = "org/good"
GOOD = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 300}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo(REPO, GOOD)
        yield server


# Catalogs


def document(name: str, *, kind: str = "CachedModel", uri: str = f"hf://{REPO}") -> str:
    return (
        f"apiVersion: modelcache.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\n"
        f"spec:\n  source:\n    uri: {uri}\n"
    )


@dataclass(frozen=True)
class Mistake:
    """A catalog file with something wrong, and what is said of it, in its order."""

    content: str | bytes
    place: str
    what: str
    exit_code: int = 2


MISTAKES = {
    "empty": Mistake("", "", "is empty", exit_code=0),
    "comment": Mistake("# nothing yet\n---\n", "", "is empty", exit_code=0),
    "rubbish": Mistake(b"\x89PNG" + random.Random(1).randbytes(4000), "", "is no text in UTF-8"),
    "zeros": Mistake(bytes(4096), "", "is binary"),
    "bomb": Mistake(
        "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "document 1, line 6",
        "is a YAML bomb",
    ),
    "deep": Mistake("[" * 100_000, "document 1, line 1", "is nested deeper than 64 levels"),
    "unclosed": Mistake(document("fine-1") + "---\nspec: ]\n", "document 2, line 9", "is no YAML"),
    "kind": Mistake(
        document("m-kind", kind="CachedModels"),
        "document 1 (CachedModels/m-kind), line 2, kind",
        "did you mean CachedModel?",
    ),
    "foreign": Mistake(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: m-pod}\n",
        "document 1 (Pod/m-pod), line 2, kind",
        '"Pod" is unknown',
    ),
    "twice": Mistake(
        document("fine-2") + "---\n" + document("fine-2", uri="hf://org/other"),
        "document 2 (CachedModel/fine-2), line 9, metadata.name",
        "there is a CachedModel of this name already",
    ),
    "long": Mistake(
        document("n" * 300),
        f"document 1 (CachedModel/{'n' * 63}…), line 4, metadata.name",
        "has 300 characters: at most 54 are allowed",
    ),
    "field": Mistake(
        document("m-field") + "    includes: ['*.json']\n",
        "document 1 (CachedModel/m-field), line 8, spec.source.includes",
        "did you mean include?",
    ),
    "scheme": Mistake(
        document("m-scheme", uri="ftp://host/path"),
        "document 1 (CachedModel/m-scheme), line 7, spec.source.uri",
        "unknown scheme 'ftp'",
    ),
    "dots": Mistake(
        document("m-dots", uri="file:///models/../etc"),
        "document 1 (CachedModel/m-dots), line 7, spec.source.uri",
        "a path has no '..' in it",
    ),
}


def write_mistake(folder: Path, name: str) -> Path:
    mistake = MISTAKES[name]
    path = folder / f"{name}.yaml"
    content = mistake.content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", MISTAKES)
def test_validate_tells_the_place_and_the_mistake(tmp_path: Path, name: str) -> None:
    mistake, path = MISTAKES[name], write_mistake(tmp_path, name)
    done = modelcache("validate", path)
    assert done.returncode == mistake.exit_code
    assert done.stderr == ""
    told, summary = done.stdout.splitlines()
    where = f"{path}: {mistake.place}: " if mistake.place else f"{path}: "
    assert told.removeprefix("warning: ").startswith(where)
    assert mistake.what in told
    assert len(told) < 400 + len(str(path))
    assert summary.endswith("valid" if mistake.exit_code == 0 else "1 problem")


def test_the_agent_serves_the_models_beside_every_mistake(tmp_path: Path, hub: HubServer) -> None:
    root = tmp_path / "root"
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    paths = {name: write_mistake(catalog, name) for name in MISTAKES}
    write_catalog(catalog / "good.yaml", {"name": "good", "uri": f"hf://{REPO}"})
    with AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("good", "fine-1", "fine-2")
        logged = [e["problem"] for e in agent.events if e["event"] == "catalog.problem"]
        assert agent.get("/livez") == agent.get("/readyz") == "ok\n"
        served = agent.node()["status"]
        # A catalog that was in force is not lost to a mistake made later.
        paths["kind"].write_text(document("m-kind", kind="CachedModels") + "---\nspec: ]\n")
        agent.wait_for(lambda e: "kind.yaml: document 2, line 9" in e.get("problem", ""))
        (catalog / "good.yaml").write_bytes(MISTAKES["rubbish"].content)  # type: ignore[arg-type]
        agent.wait_for(lambda e: "CachedModel/good read from it before" in e.get("problem", ""))
        assert agent.model("good")["wanted"]
        assert agent.terminate() == 0
    assert len(logged) == len(MISTAKES)
    assert {model["name"] for model in served["models"]} == {"good", "fine-1", "fine-2"}
    assert served["catalog"]["objects"] == 3
    for problems in (logged, served["catalog"]["problems"]):
        for name, mistake in MISTAKES.items():
            (told,) = (p for p in problems if p.startswith(f"{paths[name]}: {mistake.place}"))
            assert mistake.what in told
            assert "\n" not in told
    written = json.loads((root / "node.json").read_text())["status"]["catalog"]
    assert written["problemCount"] == len(MISTAKES) + 2


def test_a_model_whose_source_is_not_for_it(tmp_path: Path, hub: HubServer) -> None:
    """What a catalog can't be blamed for offline: a model's own reason, and no other model's."""
    root, shared, secrets = (tmp_path / name for name in ("root", "shared", "secrets"))
    for folder in (root, shared / "model", secrets):
        folder.mkdir(parents=True)
    (shared / "model" / "config.json").write_bytes(b"{}")
    (shared / "way-out").symlink_to("/etc")
    hf = f"hf://{REPO}"
    cases: dict[str, tuple[dict[str, Any], str, str]] = {
        "root-itself": ({"uri": f"file://{root}"}, "UnsafePath", "into the cache itself"),
        "in-root": ({"uri": f"file://{root}/models"}, "UnsafePath", "into the cache itself"),
        "above-root": ({"uri": f"file://{tmp_path}"}, "UnsafePath", "is around it"),
        "outside": ({"uri": "file:///etc"}, "UnsafePath", "is not below a --file-root"),
        "link-out": ({"uri": f"file://{shared}/way-out"}, "UnsafePath", "leads out of"),
        "no-secret": ({"uri": hf, "secretName": "none"}, "AuthFailed", "there is no secret none"),
        "no-folder": ({"uri": f"file://{shared}/gone"}, "NotFound", "gone"),
        "no-repo": ({"uri": "hf://org/gone"}, "NotFound", "there is no org/gone"),
    }
    catalog = write_catalog(
        tmp_path / "catalog.yaml",
        *({"name": name, **source} for name, (source, _, _) in cases.items()),
        {"name": "good", "uri": f"file://{shared}/model"},
    )
    assert modelcache("validate", catalog).returncode == 0
    with AgentProcess(
        root,
        catalog,
        *("--file-roots", str(tmp_path)),
        *("--secrets-dir", str(secrets)),
        env={"HF_ENDPOINT": hub.url},
    ) as agent:
        agent.wait_ready("good")
        for name, (_, reason, what) in cases.items():
            report = agent.wait_failed(name)
            assert (report["state"], report["reason"]) == ("Failed", reason)
            assert what in report["message"]
            told = agent.wait_for_event("model.failed", model=name, reason=reason)
            assert told["message"] == report["message"]
        assert agent.get("/livez") == "ok\n"
        assert agent.terminate() == 0
    written = json.loads((root / "node.json").read_text())["status"]["models"]
    assert {m["name"]: m.get("reason") for m in written} == {
        "good": None,
        **{name: reason for name, (_, reason, _) in cases.items()},
    }
    assert sorted(path.name for path in (root / "models").iterdir()) == ["good"]


@pytest.mark.parametrize("everywhere", [False, True], ids=["for-other-nodes", "for-this-node"])
def test_ten_thousand_documents(tmp_path: Path, hub: HubServer, everywhere: bool) -> None:
    """Three models of 10,000 can be had. The others are for other nodes, or not to be found."""
    root = tmp_path / "root"
    path = tmp_path / "catalog.yaml"
    good = ("m-00007", "m-05000", "m-09999")
    other = "" if everywhere else "  nodeSelector: {kubernetes.io/hostname: another}\n"

    def nth(number: int) -> str:
        name = f"m-{number:05}"
        if name in good:
            return document(name) + "  priority: 10\n"
        if number % 1000 == 500:
            name = f"M_{number:05}"  # which can't be right
        return document(name, uri="hf://org/gone") + other

    path.write_text("---\n".join(map(nth, range(10_000))))
    began = time.monotonic()
    with AgentProcess(
        root,
        path,
        *("--node-labels", "kubernetes.io/hostname=this"),
        env={"HF_ENDPOINT": hub.url},
    ) as agent:
        slowest = 0.0
        waiting = set(good)
        while waiting:
            asked = time.monotonic()
            assert agent.get("/livez") == "ok\n"
            slowest = max(slowest, time.monotonic() - asked)
            assert asked - began < 60, agent.log
            waiting -= {e["model"] for e in agent.events if e["event"] == "model.ready"}
        ready = time.monotonic() - began
        read = agent.wait_for_event("catalog.read")
        assert (read["objects"], read["problems"]) == (9990, 10)
        status = agent.node()["status"]
        assert len(status["models"]) == (9990 if everywhere else 3)
        assert status["catalog"]["problemCount"] == len(status["catalog"]["problems"]) == 10
        if everywhere:
            failed = agent.wait_for_event("model.failed")
            assert failed["reason"] == "NotFound"
        peak = agent.peak_memory() / 2**20
        assert agent.terminate() == 0
    print(f"\n3 ready after {ready:.1f} s, /livez within {slowest:.2f} s; peak {peak:.0f} MiB")
    assert slowest < 3.0


# Commands


@dataclass(frozen=True)
class Setting:
    """What the failing commands meet."""

    hub: HubServer
    tmp_path: Path


Prepared = tuple[list[str | Path], dict[str, str]]
Prepare = Callable[[Setting], Prepared]


def uri(text: str, *flags: str, **env: str) -> Prepare:
    return lambda setting: ([text, *flags], env)


def own_root(setting: Setting) -> Prepared:
    return [f"file://{setting.tmp_path / 'root'}"], {}


def unsafe_path(setting: Setting) -> Prepared:
    setting.hub.add_repo("org/harm", {"../harm": b"x"})
    return ["hf://org/harm"], {}


def unsafe_format(setting: Setting) -> Prepared:
    setting.hub.add_repo("org/pickle", {"model.bin": b"x"})
    return ["hf://org/pickle"], {}


def gated(setting: Setting) -> Prepared:
    setting.hub.add_repo("org/gated", GOOD, gated=True, token="hf_right")
    return ["hf://org/gated"], {}


def wrong_token(setting: Setting) -> Prepared:
    setting.hub.revoke_token("hf_revoked")
    return [f"hf://{REPO}"], {"HF_TOKEN": "hf_revoked"}


def greedy_secret(setting: Setting) -> Prepared:
    secret = setting.tmp_path / "secrets" / "mine"
    secret.mkdir(parents=True)
    (secret / "token").write_text("hf_right")
    (secret / "hosts").write_text("hub.example")
    return [f"hf://{REPO}", "--secrets-dir", secret.parent, "--secret", "mine"], {}


def flipped(setting: Setting) -> Prepared:
    setting.hub.fault("model.safetensors", FlipBit(7, times=None))
    return [f"hf://{REPO}"], {}


def offline_hub(setting: Setting) -> Prepared:
    setting.hub.refuse_connections()
    return [f"hf://{REPO}"], {}


def no_bucket(setting: Setting, bucket: str) -> Prepared:
    return [f"s3://{bucket}/model"], {}


def not_a_cache(setting: Setting) -> Prepared:
    (setting.tmp_path / "root" / "models" / "of-others").mkdir(parents=True)
    return [f"hf://{REPO}"], {}


FAILURES: Mapping[str, tuple[int, str, str, Prepare]] = {
    "scheme": (2, "Usage", "unknown scheme 'ftp'", uri("ftp://host/path")),
    "no-uri": (2, "Usage", "is not a URI", uri("model")),
    "flag": (2, "Usage", "--nonsense", uri(f"hf://{REPO}", "--nonsense")),
    "size": (2, "Usage", "is not a size", uri(f"hf://{REPO}", "--bandwidth", "fast")),
    "name": (2, "Usage", "at most 54", uri(f"hf://{REPO}", "--name", "n" * 300)),
    "endpoint": (2, "Usage", "is not a URL", uri(f"hf://{REPO}", HF_ENDPOINT="nowhere")),
    "own-root": (2, "UnsafePath", "into the cache itself", own_root),
    "unsafe-path": (2, "UnsafePath", "'../harm'", unsafe_path),
    "unsafe-format": (2, "UnsafeFormat", "allowUnsafeFormats", unsafe_format),
    "gated": (3, "AuthFailed", "accept its licence", gated),
    "token": (3, "AuthFailed", "refuses the token", wrong_token),
    "secret": (3, "AuthFailed", "--secrets-dir", uri(f"hf://{REPO}", "--secret", "gone")),
    "secret-host": (3, "AuthFailed", "'hosts'", greedy_secret),
    "repo": (4, "NotFound", "there is no org/gone", uri("hf://org/gone")),
    "revision": (4, "NotFound", "has no revision 'v9'", uri(f"hf://{REPO}@v9")),
    "path": (4, "NotFound", "has no 'gone'", uri(f"hf://{REPO}/gone")),
    "selection": (4, "NotFound", "no file that include", uri(f"hf://{REPO}", "--include", "*.x")),
    "folder": (4, "NotFound", "/no/such/folder", uri("file:///no/such/folder")),
    "integrity": (5, "ChecksumMismatch", "model.safetensors", flipped),
    "space": (6, "InsufficientDisk", "kept free", uri(f"hf://{REPO}", "--keep-free", "900Ti")),
    "refused": (7, "OriginUnavailable", "127.0.0.1", offline_hub),
    "not-a-cache": (1, "Internal", "no layout.json", not_a_cache),
}


@pytest.mark.parametrize("name", FAILURES)
def test_prefetch_fails_in_one_line(tmp_path: Path, hub: HubServer, name: str) -> None:
    code, reason, what, prepare = FAILURES[name]
    arguments, env = prepare(Setting(hub, tmp_path))
    run_failing(arguments, {"HF_ENDPOINT": hub.url, **env}, tmp_path, code, reason, what)
    assert not list(tmp_path.glob("root/manifests/*/*"))


@pytest.mark.parametrize(
    ("bucket", "key", "code", "reason"),
    [
        ("bad-input-gone", None, 4, "NotFound"),
        ("bad-input-empty", "other/config.json", 4, "NotFound"),
        ("bad-input-anonymous", "model/config.json", 3, "AuthFailed"),
    ],
)
def test_prefetch_from_s3_fails_in_one_line(
    tmp_path: Path, bucket: str, key: str | None, code: int, reason: str
) -> None:
    with S3Server() as s3:
        if key is not None:
            s3.client().create_bucket(Bucket=bucket)
            s3.client().put_object(Bucket=bucket, Key=key, Body=b"{}")
        env = {"AWS_ENDPOINT_URL_S3": s3.endpoint, "AWS_DEFAULT_REGION": REGION}
        if reason != "AuthFailed":
            env |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        run_failing([f"s3://{bucket}/model"], env, tmp_path, code, reason, bucket)


def run_failing(
    arguments: list[str | Path],
    env: dict[str, str],
    tmp_path: Path,
    code: int,
    reason: str,
    what: str,
) -> None:
    """Run a prefetch for a person and for a program, and check how both are told."""
    command = partial(modelcache, "prefetch", *arguments, "--root", tmp_path / "root", env=env)
    for_person = command()
    for_program = command("-o", "json")
    for done in (for_person, for_program):
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    (line,) = for_person.stderr.splitlines()
    assert line.startswith("modelcache: ")
    assert what in line
    assert for_person.stdout == ""
    told_reason, message = told_failure(for_program.stdout)
    assert told_reason == reason
    assert what in message
    assert for_program.stderr == ""


def test_a_person_is_told_of_each_of_several(tmp_path: Path, hub: HubServer) -> None:
    arguments = [f"hf://{REPO}", "hf://org/gone", "file:///no/such/folder"]
    done = modelcache(
        "prefetch", *arguments, "--root", tmp_path / "root", env={"HF_ENDPOINT": hub.url}
    )
    assert done.returncode == 4
    table = [line.split()[:2] for line in done.stdout.splitlines()]
    assert table[1:4] == [["good", "Ready"], ["gone", "Failed"], ["folder", "Failed"]]
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path / "root" / "models") == ["good"]
