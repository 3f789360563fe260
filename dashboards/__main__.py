"""`python -m dashboards` writes the files that are generated."""

from __future__ import annotations

from dashboards.generated import ROOT, files


def main() -> None:
    """Write them all; those that are up to date stay untouched."""
    for name, text in files().items():
        path = ROOT / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(name)  # noqa: T201 - it is a command


if __name__ == "__main__":
    main()
