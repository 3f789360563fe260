"""Nothing turns the checking of servers off: no setting, no variable, no line of ours.

That each origin's real client refuses a certificate of another CA, and an expired one, is in
`component/origins/test_fault_matrix.py`.
"""

from __future__ import annotations

import ast
import ssl
from pathlib import Path

import pytest

import modelcache
from modelcache.origins import Network
from modelcache.settings import AgentSettings

SOURCES = sorted(Path(modelcache.__file__).parent.rglob("*.py"))
VARIABLES = {
    "PYTHONHTTPSVERIFY": "0",
    "HF_HUB_DISABLE_SSL_VERIFICATION": "1",
    "HF_HUB_DISABLE_SSL": "1",
    "AWS_VERIFY_SSL": "false",
    "CLOUDSDK_AUTH_DISABLE_SSL_VALIDATION": "true",
    "CURL_INSECURE": "1",
    "GIT_SSL_NO_VERIFY": "1",
    "NODE_TLS_REJECT_UNAUTHORIZED": "0",
    "SSL_NO_VERIFY": "1",
}


def test_no_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    tls = Network().tls
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert tls.check_hostname
    assert tls.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert Path(Network().ca_file).read_bytes().count(b"BEGIN CERTIFICATE") > 50


def test_no_setting_turns_it_off() -> None:
    words = ("insecure", "verify", "skip_tls", "no_tls")
    assert not [n for n in AgentSettings.model_fields if any(word in n for word in words)]


def unverified(tree: ast.AST) -> list[int]:
    """The lines where a client is told to believe anybody."""
    lines = []
    for node in ast.walk(tree):
        off = False
        if isinstance(node, ast.keyword):
            off = node.arg in ("verify", "verify_ssl", "check_hostname", "assert_hostname") and (
                isinstance(node.value, ast.Constant) and node.value.value in (False, None)
            )
        elif isinstance(node, ast.Attribute):
            off = node.attr in ("CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            named = node.targets[0].attr in ("verify", "verify_ssl", "check_hostname")
            off = named and isinstance(node.value, ast.Constant) and not node.value.value
        if off:
            lines.append(getattr(node, "lineno", 0))
    return lines


@pytest.mark.parametrize("line", ["c.verify = False", "f(verify=False)", "c.m = ssl.CERT_NONE"])
def test_what_is_looked_for_is_found(line: str) -> None:
    assert unverified(ast.parse(line))


def test_no_line_of_ours_turns_it_off() -> None:
    assert len(SOURCES) > 300
    found = {path.name for path in SOURCES if unverified(ast.parse(path.read_text()))}
    # An engine in its own pod: it is asked whether it serves, and told nothing.
    assert found == {"serving.py"}
