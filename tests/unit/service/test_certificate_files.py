"""A certificate in files that somebody else brings."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from modelcache.service.certifying import CertificateFiles


def test_files_that_are_missing_are_told_once(tmp_path: Path) -> None:
    shown: list[tuple[bytes, bytes]] = []
    files = CertificateFiles(tmp_path, lambda chain, key: shown.append((chain, key)))
    with capture_logs() as logs:
        for _ in range(5):
            files.cycle()
        for name in ("tls.crt", "tls.key"):
            (tmp_path / name).write_text(name)
        files.cycle()
        (tmp_path / "tls.key").unlink()
        for _ in range(5):
            files.cycle()
    assert shown == [(b"tls.crt", b"tls.key")]
    assert [log["event"].rpartition(".")[2] for log in logs] == [
        "unreadable",
        "loaded",
        "unreadable",
    ]
