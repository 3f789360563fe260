"""A token of its own in every credential: nothing that the agent says has any of them.

The origins say back what they are told, in bodies, headers and reasons, whatever they answer.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.parrot import CONTENT, Parrot
from tests.support.proxy import ProxyServer

MODES = ("401", "403", "404", "429", "500", "html", "moved", "cut")
PATIENT = ("429", "500", "cut")
"""Of these: what Google's client goes on asking after for more than a minute."""


def planted(name: str) -> str:
    """A value that no other credential has, with characters that URLs write in another way."""
    return f"{name}+/={secrets.token_hex(12)}"


def disguises(value: str) -> Iterator[str]:
    """The forms in which a value may be found."""
    yield value
    yield quote(value, safe="")
    yield quote_plus(value)
    yield json.dumps(value)[1:-1]
    yield value.encode().hex()
    yield repr(value)[1:-1]
    for shift in range(3):
        # Within something longer; its ends depend on what is beside it.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"." * shift + value.encode() + b"." * 3).decode()
            yield text[4 if shift else 0 : len(text) - 8]


def found_in(text: str, values: Mapping[str, str]) -> list[str]:
    """The names of the values that a text has in any form."""
    return [
        name
        for name, value in values.items()
        if any(form in text for form in dict.fromkeys(disguises(value)))
    ]


def pem(private: rsa.RSAPrivateKey | Ed25519PrivateKey) -> str:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def body_of(key: str) -> str:
    """A line of a PEM file that tells the key."""
    return key.splitlines()[1]


@dataclass(frozen=True)
class World:
    """Where the agent is, and all that it must not tell."""

    folder: Path
    origin: Parrot
    other: Parrot
    mirror: Parrot
    values: dict[str, str]
    env: dict[str, str]

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def secret(self, name: str, **keys: str) -> str:
        folder = self.folder / "secrets" / name
        folder.mkdir(parents=True)
        for key, value in {"hosts": self.origin.netloc, **keys}.items():
            (folder / key.replace("DOCKERCONFIG", ".dockerconfigjson")).write_text(value)
        return name

    def check(self, what: str, text: str) -> None:
        made = {f"given-{n}": value for n, value in enumerate(sorted(self.origin.given))}
        assert not found_in(text, {**self.values, **made}), f"{what} has them"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    names = (
        *("hf-env", "hf-secret", "aws-key", "aws-session", "aws-secret-key", "aws-secret-session"),
        *("oci-basic", "oci-bearer", "oci-docker", "oci-token", "web-basic", "web-token"),
        *("web-query", "netrc", "proxy", "kubeconfig", "unused"),
    )
    values = {name: planted(name) for name in names}
    # A bearer's characters (RFC 6750, 2.1), and those of a token in a header.
    for name in ("hf-env", "hf-secret", "oci-token", "web-token"):
        values[name] = values[name].replace("=", "~")
    (tmp_path / "docker").mkdir()
    with (
        Parrot("127.0.0.2") as other,
        Parrot() as mirror,
        Parrot(leads_to=other.url, token=values["oci-token"]) as origin,
        ProxyServer({}, login=f"me:{values['unused']}") as proxy,
    ):
        login = base64.b64encode(f"me:{values['oci-docker']}".encode()).decode()
        config = {"auths": {origin.netloc: {"auth": login}}}
        (tmp_path / "docker" / "config.json").write_text(json.dumps(config))
        netrc = tmp_path / "netrc"
        netrc.write_text(f"default login me password {values['netrc']}\n")
        env = {
            "HF_ENDPOINT": origin.url,
            "HF_TOKEN": values["hf-env"],
            "AWS_ENDPOINT_URL_S3": origin.url,
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": values["aws-key"],
            "AWS_SESSION_TOKEN": values["aws-session"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "API_ENDPOINT_OVERRIDE": origin.url,
            "DOCKER_CONFIG": str(tmp_path / "docker"),
            "NETRC": str(netrc),
            "HTTPS_PROXY": f"http://me:{quote(values['proxy'], safe='')}@{proxy.address}",
        }
        yield World(tmp_path, origin, other, mirror, values, env)


def models(world: World) -> list[dict[str, str]]:
    """One for each credential and each way to refuse it."""
    values, origin = world.values, world.origin
    google = pem(rsa.generate_private_key(65537, 2048))
    values["google-key"] = body_of(google)
    account = {
        "type": "service_account",
        "client_email": "me@example.com",
        "private_key_id": "1",
        "private_key": google,
    }

    def key(token_path: str) -> dict[str, str]:
        text = json.dumps({**account, "token_uri": f"{origin.url}{token_path}"})
        return {"GOOGLE_APPLICATION_CREDENTIALS_JSON": text}

    aws = {
        "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
        "AWS_SECRET_ACCESS_KEY": values["aws-secret-key"],
        "AWS_SESSION_TOKEN": values["aws-secret-session"],
    }
    kinds = {
        "hf-env": ("hf://m{}/env", ""),
        "hf-secret": ("hf://m{}/secret", world.secret("hub", token=values["hf-secret"])),
        "s3-env": ("s3://m{}-bucket/x", ""),
        "s3-secret": ("s3://m{}-bucket/x", world.secret("s3", **aws)),
        "gs": ("gs://m{}-bucket/x", world.secret("gs", **key("/token"))),
        "oci": (
            f"oci://{origin.netloc}/m{{}}/basic:v1",
            world.secret("oci", username="me", password=values["oci-basic"]),
        ),
        "oci-bearer": (
            f"oci://{origin.netloc}/m{{}}/bearer:v1",
            world.secret("oci-bearer", username="me", password=values["oci-bearer"]),
        ),
        "oci-docker": (f"oci://{origin.netloc}/m{{}}/docker:v1", ""),
        "web-basic": (
            f"{origin.url}/m{{}}/model.gguf?sig={quote(values['web-query'], safe='')}",
            world.secret("web", username="me", password=values["web-basic"]),
        ),
        "web-token": (
            f"{origin.url}/m{{}}/SHA256SUMS",
            world.secret("web-token", token=values["web-token"]),
        ),
    }
    found = [
        {"name": f"{kind}-{mode}", "uri": uri.format(mode), "secretName": secret}
        for kind, (uri, secret) in kinds.items()
        for mode in MODES
        if kind != "gs" or mode not in PATIENT
    ]
    refused = [
        {
            "name": f"gs-refused-{mode}",
            "uri": "gs://mok-bucket/x",
            "secretName": world.secret(f"gs-{mode}", **key(f"/m{mode}/token")),
        }
        for mode in ("401", "403", "html")
    ]
    proxied = {"name": "proxied", "uri": f"https://proxied.example/f?sig={values['web-query']}"}
    elsewhere = {
        "name": "not-for-that-host",
        "uri": f"{world.other.url}/mok/f.gguf",
        "secretName": "web-token",
    }
    return [
        {field: value for field, value in model.items() if value}
        for model in (*found, *refused, proxied, elsewhere)
    ]


def test_nothing_that_the_agent_says_has_a_credential(world: World) -> None:
    wanted = models(world)
    fetched = {**wanted[-4], "name": "fetched", "uri": f"{world.origin.url}/mok/model.gguf?sig="}
    fetched["uri"] += quote(world.values["web-query"], safe="")
    fetched["secretName"] = "web"
    signing = world.folder / "signing.pem"
    signing.write_text(pem(Ed25519PrivateKey.generate()))
    signing.chmod(0o600)
    world.values["signing-key"] = body_of(signing.read_text())
    bad = {"name": "bad", "uri": f"https://me:{quote(world.values['unused'], safe='')}@h.example/f"}
    catalog = write_catalog(world.folder / "catalog.yaml", *wanted, fetched, bad)
    flags = (
        *("--secrets-dir", str(world.folder / "secrets"), "--models-at-once", "16"),
        *("--mirrors", f"hf={world.mirror.url},https={world.mirror.url}"),
        *("--log-level", "debug", "--signing-key", str(signing)),
    )
    with AgentProcess(world.root, catalog, *flags, env=world.env) as agent:
        agent.wait_ready("fetched")
        for model in wanted:
            agent.wait_failed(model["name"], timeout=180)
        for path in ("/", "/v1/node", "/v1/events", "/metrics"):
            world.check(path, agent.get(path))
        process = Path(f"/proc/{agent.process.pid}")
        world.check("its arguments", (process / "cmdline").read_text())
        for children in process.glob("task/*/children"):
            assert children.read_text() == "", "its children have its environment"
        assert agent.terminate(timeout=20) == 0
        world.check("its log", agent.log)
    assert (world.root / "models/fetched/current/model.gguf").read_bytes() == CONTENT
    for file in sorted(world.root.rglob("*")):
        world.check("a name", str(file.relative_to(world.root)))
        if file.is_file():
            world.check(str(file), file.read_bytes().decode("latin-1"))
    for command in (("ls",), ("show", "fetched"), ("verify",)):
        for output in ("table", "json"):
            shown = modelcache(*command, "--root", world.root, "-o", output)
            world.check(" ".join(command), shown.stdout + shown.stderr)

    # The credentials did go to the origin, each, and to nobody else.
    told = "\n".join(world.origin.told)
    sent = ("hf-env", "hf-secret", "aws-session", "aws-secret-session", "oci-basic", "oci-bearer")
    for name in (*sent, "oci-docker", "oci-token", "web-basic", "web-token", "web-query"):
        assert found_in(told, {name: world.values[name]}), f"{name} was never sent"
    assert world.origin.given
    world.check("another host", "\n".join(world.other.told))
    world.check("a mirror", "\n".join(world.mirror.told))
    assert world.other.told
    never = {name: world.values[name] for name in ("netrc", "proxy", "signing-key", "google-key")}
    assert not found_in(told, never)


@pytest.mark.parametrize("output", ["table", "json"])
def test_nor_what_prefetch_says(world: World, output: str) -> None:
    mode = {"table": "-403", "json": "-html"}[output]
    chosen = [model for model in models(world) if model["name"].endswith(mode)]
    for model in chosen:
        secret = ("--secret", model["secretName"]) if "secretName" in model else ()
        result = modelcache(
            *("prefetch", model["uri"], "--root", world.root, "-o", output, *secret),
            *("--secrets-dir", world.folder / "secrets"),
            env=world.env,
        )
        assert result.returncode not in (0, 1), result.stderr
        world.check(model["name"], result.stdout + result.stderr)


def test_nor_what_it_says_of_an_api_server_that_refuses_it(world: World) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"{world.origin.url}/m403/"}}],
        "users": [{"name": "u", "user": {"token": world.values["kubeconfig"]}}],
    }
    kubeconfig = world.folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    flags = ("--cluster", "--kubeconfig", str(kubeconfig), "--log-level", "debug")
    with AgentProcess(world.root, None, *flags, "--node-name", "n1", env=world.env) as agent:
        agent.wait_for(lambda event: event.get("level") in ("warning", "error"), count=3)
        world.check("/metrics", agent.get("/metrics"))
        agent.terminate(timeout=20)
        world.check("its log", agent.log)
    assert found_in("\n".join(world.origin.told), {"kubeconfig": world.values["kubeconfig"]})
    for path in world.root.rglob("*"):
        if path.is_file():
            world.check(str(path), path.read_bytes().decode("latin-1"))
