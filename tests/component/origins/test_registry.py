"""Opening origins: which one, and at what price."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelcache.api import Source
from modelcache.errors import AuthFailed, UnsafePath
from modelcache.origins import OriginSettings, SecretStore, open_origin

SDKS = (
    *("boto3", "botocore", "google.auth", "google.cloud"),
    *("huggingface_hub", "httpx2", "requests", "urllib3"),
)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://org/name", "HuggingFaceOrigin"),
        ("s3://bucket/m", "S3Origin"),
        ("gs://bucket/m", "GcsOrigin"),
        ("oci://quay.io/org/m", "OciOrigin"),
        ("https://host/m.gguf", "WebOrigin"),
        ("http://localhost/m.gguf", "WebOrigin"),
        ("file:///mnt/m", "FileOrigin"),
    ],
)
def test_a_scheme_has_its_origin(tmp_path: Path, uri: str, name: str) -> None:
    assert type(open_origin(Source(uri=uri), OriginSettings(tmp_path))).__name__ == name


def test_files_are_refused_unless_a_root_is_configured(tmp_path: Path) -> None:
    with pytest.raises(UnsafePath, match="none is set"):
        open_origin(Source(uri="file:///etc"), OriginSettings(tmp_path)).resolve()


@pytest.mark.parametrize(
    "uri",
    ["hf://org/name", "s3://bucket/m", "gs://bucket/m", "oci://quay.io/m", "https://h/f"],
)
def test_a_missing_secret_is_told_at_once(tmp_path: Path, uri: str) -> None:
    source = Source(uri=uri, secret_name="nope")
    with pytest.raises(AuthFailed, match="no directory of secrets"):
        open_origin(source, OriginSettings(tmp_path))
    with pytest.raises(AuthFailed, match="there is no secret nope"):
        open_origin(source, OriginSettings(tmp_path, secrets=SecretStore(tmp_path)))


def test_the_sdks_are_imported_on_first_use_only() -> None:
    """They cost 0.2 s and 30 MiB, which `modelcache ls` need not pay."""
    code = f"import sys, modelcache.origins;print(sorted(set(sys.modules) & set({SDKS!r})))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
