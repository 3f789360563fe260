from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.cli.options import settings
from modelcache.errors import UsageError
from modelcache.settings import AgentSettings, FetchSettings, StoreSettings, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1048576),
        ("500M", 500_000_000),
        ("10Gi", 10 * 2**30),
        ("1.5Gi", 3 * 2**29),
        ("2 TiB", 2 * 2**40),
        ("1k", 1000),
        ("3P", 3 * 10**15),
        ("7B", 7),
        (" 5Mi ", 5 * 2**20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "1.G", "5 apples", "0x10", "9" * 400 + "G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="write 500M, 10Gi"):
        parse_size(text)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_size(text) >= 0


def test_a_flag_beats_the_environment_and_that_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(FetchSettings).connections == 8
    monkeypatch.setenv("MODELCACHE_CONNECTIONS", "3")
    monkeypatch.setenv("MODELCACHE_ROOT", "/from/env")
    assert settings(FetchSettings).connections == 3
    assert settings(FetchSettings, connections=5).connections == 5
    assert settings(StoreSettings).root == Path("/from/env")
    assert settings(StoreSettings, root=Path("/from/flag")).root == Path("/from/flag")


def test_the_nodes_name_comes_from_kubernetes_or_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Host-1.example")
    assert settings(AgentSettings).node_name == "host-1.example"
    monkeypatch.setenv("NODE_NAME", "node-2")
    assert settings(AgentSettings).node_name == "node-2"
    monkeypatch.setenv("MODELCACHE_NODE_NAME", "node-3")
    assert settings(AgentSettings).node_name == "node-3"
    assert settings(AgentSettings, node_name="node-4").node_name == "node-4"


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELCACHE_FILE_ROOTS", "/a, /b,")
    found = settings(AgentSettings, node_labels="gpu=h200,zone=")
    assert found.file_roots == (Path("/a"), Path("/b"))
    assert found.labels == {"gpu": "h200", "zone": ""}
    assert settings(AgentSettings).labels is None


def test_mirrors_and_limits_are_told_by_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "MODELCACHE_MIRRORS", "hf=http://a.local:4001, s3=https://b/base,hf=https://c"
    )
    monkeypatch.setenv("MODELCACHE_ORIGIN_BANDWIDTH", "hf=200Mi,s3=1G,")
    found = settings(FetchSettings)
    assert found.mirrors == (
        ("hf", "http://a.local:4001"),
        ("s3", "https://b/base"),
        ("hf", "https://c"),
    )
    assert found.origin_bandwidth == (("hf", 200 * 2**20), ("s3", 10**9))
    assert settings(FetchSettings, mirrors="").mirrors == ()


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        (":9", ("0.0.0.0", 9)),
        ("[::1]:0", ("::1", 0)),
        ("", None),
    ],
)
def test_addresses(listen: str, address: tuple[str, int] | None) -> None:
    assert settings(AgentSettings, listen=listen).address == address


@pytest.mark.parametrize(
    ("keep", "parts"), [("5%", (0, 0.05)), ("0%", (0, 0.0)), ("20Gi", (20 * 2**30, 0.0))]
)
def test_what_is_kept_free(keep: str, parts: tuple[int, float]) -> None:
    assert settings(StoreSettings, keep_free=keep).keep_free_parts == parts


@pytest.mark.parametrize(
    ("capacity", "parts"),
    [("100%", None), ("50%", (0, 0.5)), ("2Ti", (2 * 2**40, 0.0)), ("0.5%", (0, 0.005))],
)
def test_what_the_cache_may_take(capacity: str, parts: tuple[int, float] | None) -> None:
    assert settings(StoreSettings, capacity=capacity).capacity_parts == parts


def test_the_watermarks_are_in_order() -> None:
    assert settings(AgentSettings).watermarks == (0.9, 0.8)
    low = settings(AgentSettings, high_watermark="70%", low_watermark="70%")
    assert low.watermarks == (0.7, 0.7)
    with pytest.raises(UsageError, match=r"^--low-watermark .*: 80% is more than .*, 70%$"):
        settings(AgentSettings, high_watermark="70%")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("connections", "0"),
        ("connections", "many"),
        ("bandwidth", "fast"),
        ("bandwidth", "0"),
        ("keep_free", "abc%"),
        ("keep_free", "100%"),
        ("keep_free", "-1%"),
        ("keep_free", "lots"),
        ("capacity", "0"),
        ("capacity", "0%"),
        ("capacity", "101%"),
        ("capacity", "lots"),
        ("high_watermark", "0%"),
        ("high_watermark", "101%"),
        ("low_watermark", "20Gi"),
        ("low_watermark", "95%"),
        ("listen", "8080"),
        ("listen", "host:99999"),
        ("listen", "::1:8080"),
        ("node_labels", "gpu"),
        ("node_labels", "=x"),
        ("node_name", "My_Node"),
        ("node_name", "x" * 254),
        ("file_roots", "relative"),
        ("mirrors", "http://a"),
        ("mirrors", "ftp=http://a"),
        ("mirrors", "file=http://a"),
        ("mirrors", "hf=a.local"),
        ("mirrors", "hf=ftp://a"),
        ("mirrors", "hf=http://user:password@a"),
        ("mirrors", "hf=http://a?b"),
        ("mirrors", "hf=http://a:99999"),
        ("origin_bandwidth", "200Mi"),
        ("origin_bandwidth", "hf=fast"),
        ("origin_bandwidth", "hf=0"),
        ("origin_bandwidth", "web=1Mi"),
        ("origin_bandwidth", "hf=1Mi,hf=2Mi"),
        ("host_connections", "0"),
        ("io_priority", "high"),
        ("start_jitter", "soon"),
        ("models_at_once", "0"),
        ("max_labels", "-1"),
        ("log_format", "xml"),
        ("log_level", "loud"),
    ],
)
def test_a_value_that_cant_be_right_is_named_by_flag_and_variable(
    field: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, variable = f"--{field.replace('_', '-')}", f"MODELCACHE_{field.upper()}"
    with pytest.raises(UsageError) as raised:
        settings(AgentSettings, **{field: value})
    assert str(raised.value).startswith(f"{flag} (or {variable}): ")
    assert "\n" not in str(raised.value)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as again:
        settings(AgentSettings)
    assert str(again.value) == str(raised.value)


@pytest.mark.parametrize("setting", ["delete_unwanted_after", "scrub_every"])
def test_never_is_a_time_where_something_may_be_left_undone(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    assert getattr(settings(AgentSettings), setting) > 0
    assert getattr(settings(AgentSettings, **{setting: "never"}), setting) is None
    assert getattr(settings(AgentSettings, **{setting: "2h"}), setting) == 7200
    monkeypatch.setenv(f"MODELCACHE_{setting.upper()}", "never")
    assert getattr(settings(AgentSettings), setting) is None


@pytest.mark.parametrize("value", ["0s", "30s", "2y", "often"])
def test_how_often_is_scrubbed_has_bounds(value: str) -> None:
    with pytest.raises(UsageError, match="scrub-every"):
        settings(AgentSettings, scrub_every=value)
