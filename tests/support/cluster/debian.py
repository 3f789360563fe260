"""Debian's packages of several releases, without touching what the machine has or knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.cluster.steps import CannotBuild, run

_RELEASES = ("bookworm", "trixie", "oldstable", "stable", "testing", "sid")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LINE = re.compile(
    r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#\n]+)"
)


class Debian:
    """An apt of our own: with its own lists, cache and sources, and nothing installed."""

    def __init__(self, folder: Path, *releases: str) -> None:
        self._folder = folder
        for part in ("lists/partial", "cache/archives/partial", "sources"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        uri, keys = mirror()
        (folder / "sources/debian.sources").write_text(
            f"Types: deb deb-src\nURIs: {uri}\nSuites: {' '.join(releases)}\n"
            "Components: main\n" + (f"Signed-By: {keys}\n" if keys else "")
        )
        configuration = folder / "apt.conf"
        # What the machine says in /etc/apt/apt.conf.d, such as a proxy, holds too. Root stays root:
        # apt's own user could not write here.
        configuration.write_text(
            f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{folder}/sources";\n'
            f'Dir::State::lists "{folder}/lists";\nDir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}/cache";\nAPT::Sandbox::User "";\n'
        )
        self._env = {"APT_CONFIG": str(configuration)}

    def update(self) -> None:
        """Learn what there is."""
        run(["apt-get", "update", "-q", "--error-on=any"], env=self._env)

    def unpack(self, package: str, release: str, to: Path) -> None:
        """Unpack a package's files, without installing it."""
        folder = self._folder / "packages" / package
        folder.mkdir(parents=True)
        run(["apt-get", "download", "-q", f"{package}/{release}"], folder=folder, env=self._env)
        (archive,) = folder.glob("*.deb")
        run(["dpkg", "-x", archive, to])

    def source(self, package: str, release: str, to: Path) -> None:
        """Unpack a source package, with Debian's patches."""
        folder = self._folder / "packages" / f"{package}-source"
        folder.mkdir(parents=True)
        command = ["apt-get", "source", "-q", "--download-only", f"{package}/{release}"]
        run(command, folder=folder, env=self._env)
        (description,) = folder.glob("*.dsc")
        to.parent.mkdir(parents=True, exist_ok=True)
        # apt has verified it; to check the maintainer's signature too would need more keys.
        run(["dpkg-source", "--no-check", "-x", description, to])


def mirror(etc: Path = Path("/etc/apt")) -> tuple[str, Path | None]:
    """Where the machine has Debian's releases from, and the keys that vouch for them."""
    for path in (
        etc / "sources.list",
        *sorted((etc / "sources.list.d").glob("*.list")),
        *sorted((etc / "sources.list.d").glob("*.sources")),
    ):
        text = path.read_text() if path.exists() else ""
        parse = _stanzas if path.suffix == ".sources" else _lines
        for uri, suites, components, keys in parse(text):
            if "main" in components and not {*suites}.isdisjoint(_RELEASES):
                return uri, next((key for key in (Path(keys), _KEYRING) if key.is_file()), None)
    raise CannotBuild("this machine has no mirror of Debian to take packages from")


def _lines(text: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    for line in text.splitlines():
        if match := _LINE.match(line):
            keys = re.search(r"signed-by=(\S+)", match["options"] or "")
            suite, components = match["suite"], match["components"].split()
            yield match["uri"], [suite], components, keys[1] if keys else ""


def _stanzas(text: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    """Entries in the format of deb822, sources.list(5)."""
    for stanza in re.split(r"\n\s*\n", re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)):
        fields = {
            key.lower(): value.strip()
            for key, _, value in (line.partition(":") for line in stanza.splitlines())
            if not key.startswith((" ", "\t"))
        }
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes") != "no":
            yield (
                fields.get("uris", "").split()[0],
                fields.get("suites", "").split(),
                fields.get("components", "").split(),
                fields.get("signed-by", ""),
            )
