"""An environment in which no test sees who runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_CREDENTIALS = (
    *("HF_", "HUGGING", "AWS_", "GOOGLE_", "CLOUDSDK_", "GCE_", "STORAGE_EMULATOR_HOST"),
    *("API_ENDPOINT_OVERRIDE", "MODELCACHE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    *("NO_PROXY", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


def clean(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """No credentials, caches or proxies, and nothing but loopback."""
    for name in list(os.environ):
        if name.upper().startswith(_CREDENTIALS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HOME", str(home / "hf-home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(Path(__file__).parent / "docker"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(home / "no-gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
