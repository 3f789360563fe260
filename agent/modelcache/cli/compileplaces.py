"""modelcache compile publish, pull, ls: bundles brought to a place, and from one."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from modelcache.cli.display import Display
from modelcache.cli.options import (
    BandwidthOption,
    CaBundle,
    Connections,
    KeepFreeOption,
    Output,
    SecretsDir,
    settings,
)
from modelcache.cli.output import Format, age, human_bytes, print_json, print_notes, print_table
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import TrustedKeys
from modelcache.compilecache.bundles.statement import (
    Statement,
    parse_envelope,
    parse_statement,
    statement_of,
)
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.bundles.unpacking import check
from modelcache.compilecache.places.fetching import (
    UNREAD,
    Admitted,
    BundleFetcher,
    admit,
    admitted,
    place_in,
    store_beside,
)
from modelcache.compilecache.places.opening import open_place, uri_of
from modelcache.compilecache.places.protocol import Place, Placed, is_hex
from modelcache.errors import BrokenBundle, ModelCacheError, NotFound, Untrusted, UsageError
from modelcache.origins import Network, OriginSettings, SecretStore, spare_metadata
from modelcache.service.logs import configure_logs
from modelcache.service.outfit import outfit
from modelcache.service.progress import ProgressBook
from modelcache.settings import FetchSettings
from modelcache.store import KeepFree
from modelcache.transfer import Cancel, Engine

_MOST_SHOWN: Final = 1000
"""Bundles whose envelopes `ls` reads."""
_SHORT: Final = 12

PlaceArgument = Annotated[
    str,
    typer.Argument(
        metavar="PLACE",
        help="oci://registry/repository, s3://bucket/prefix, gs://bucket/prefix, file:///path or a"
        " directory.",
    ),
]
SecretOption = Annotated[
    str | None,
    typer.Option(
        "--secret",
        metavar="NAME",
        help="Secret in --secrets-dir with the place's credentials; without one those of the"
        " environment.",
    ),
]
PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="FILE|DIRECTORY",
        help="Public keys (PEM) whose signatures are trusted.",
    ),
]
KeyOption = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="KEY",
        help="What it was compiled for: 64 hex digits, as modelcache compile key prints them.",
    ),
]


def publish(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="The bundle's directory, with its bundle.json.")
    ],
    place: PlaceArgument,
    secret: SecretOption = None,
    secrets_dir: SecretsDir = None,
    ca_bundle: CaBundle = None,
    output: Output = Format.TABLE,
) -> None:
    """Bring a bundle to a place, unless it is there: all of it, or nothing that is seen.

    It is checked first, file by file. Who publishes is not thereby trusted: nodes take what is
    signed by a key that they trust, or pinned by its digest.
    """
    local = LocalBundle.open(bundle)
    statement = local.statement
    cancel = _stopped_by_signals()
    check(local.archive, statement, cancel=cancel)
    target, _ = _open(place, secret, secrets_dir=secrets_dir, ca_bundle=ca_bundle)
    new = target.publish(local, cancel)
    if output is Format.JSON:
        result = {"digest": statement.digest, "key": statement.key.digest, "place": target.uri}
        print_json("PublishResult", {**result, "published": new})
        return
    print(f"{statement.digest} {'published' if new else 'was there already'}: {target.uri}")
    if not local.envelope.signatures:
        print_notes({"not signed": "nodes take it only where its digest is pinned"})


def pull(
    place: PlaceArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIRECTORY",
            help="Where to: DIRECTORY/<key>/<digest>, so that it is a place (file://) itself.",
        ),
    ],
    key: KeyOption = "",
    digest: Annotated[
        str,
        typer.Option(
            metavar="sha256:...", help="This very bundle. Naming it is trusting it: it is pinned."
        ),
    ] = "",
    public_key: PublicKey = None,
    secret: SecretOption = None,
    secrets_dir: SecretsDir = None,
    keep_free: KeepFreeOption = None,
    connections: Connections = None,
    bandwidth: BandwidthOption = None,
    ca_bundle: CaBundle = None,
    output: Output = Format.TABLE,
) -> int:
    """Fetch the newest bundle of a key that is trusted, or the one of a digest.

    What is not trusted is not fetched. What was fetched of an archive when the command ends early
    is kept in DIRECTORY, and taken up by the next.
    """
    if bool(key) == bool(digest):
        raise UsageError("give --key, or --digest, and not both")
    _require_key(key)
    if digest and not is_hex(digest.removeprefix("sha256:")):
        raise UsageError(f"{digest[:80]!r} is no digest: sha256: and 64 hex digits")
    if key and public_key is None:
        raise UsageError("nobody is trusted: give --public-key, or pin a bundle with --digest")
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"--out {out} is a file: name a directory, which is made where there is none"
        )
    digest = digest and f"sha256:{digest.removeprefix('sha256:')}"
    trust = Trust(
        keys=TrustedKeys() if public_key is None else TrustedKeys.load(public_key),
        digests=frozenset([digest] if digest else []),
    )
    target, found = _open(
        place,
        secret,
        secrets_dir=secrets_dir,
        keep_free=keep_free,
        connections=connections,
        bandwidth=bandwidth,
        ca_bundle=ca_bundle,
    )
    cancel, book = _stopped_by_signals(), ProgressBook()
    chosen = _chosen(target, key, digest, trust, cancel)
    engine, _ = outfit(found, out, file_roots=None)
    with Display(book) if output is Format.TABLE else nullcontext():
        bundle = _fetch(target, chosen, out, found, engine, book, cancel)
    if output is Format.JSON:
        ended = book.ended(chosen.statement.name)
        received = {"receivedBytes": ended.received if ended else 0}
        result = {**_plain(chosen), **received, "directory": str(bundle.directory)}
        print_json("PullResult", result)
    else:
        print(f"{chosen.statement.digest}: {bundle.directory}")
    return 0


def list_place(
    place: PlaceArgument,
    key: KeyOption = "",
    public_key: PublicKey = None,
    secret: SecretOption = None,
    secrets_dir: SecretsDir = None,
    ca_bundle: CaBundle = None,
    output: Output = Format.TABLE,
) -> None:
    """List the bundles of a place by key, newest first, and who signed them.

    What is shown is what each bundle says of itself. With --public-key it says below the table
    which are not trusted, and why.
    """
    _require_key(key)
    keys = None if public_key is None else TrustedKeys.load(public_key)
    target, _ = _open(place, secret, secrets_dir=secrets_dir, ca_bundle=ca_bundle)
    of_keys = (key,) if key else target.keys()
    listed = [placed for each in of_keys for placed in target.generations(each)]
    shown = [_Line(target, placed, keys) for placed in listed[:_MOST_SHOWN]]
    if output is Format.JSON:
        left = max(0, len(listed) - _MOST_SHOWN)
        content = {"place": target.uri, "bundles": [line.plain for line in shown], "leftOut": left}
        print_json("BundleList", content)
        return
    columns = ("KEY", "DIGEST", "SIZE", "AGE", "NAME", "MODEL", "ACCELERATOR", "SIGNED BY")
    print_table(columns, [line.row for line in shown])
    notes = {line.short: line.trouble for line in shown if line.trouble}
    if len(listed) > _MOST_SHOWN:
        notes[target.uri] = f"{len(listed) - _MOST_SHOWN} more are not shown: give --key"
    if not listed:
        notes[target.uri] = f"there is no bundle{' for this key' if key else ''}"
    print_notes(notes)


class _Line:
    """What is shown of one bundle."""

    def __init__(self, place: Place, placed: Placed, keys: TrustedKeys | None) -> None:
        self._placed = placed
        self._statement: Statement | None = None
        self._signed_by: tuple[str, ...] = ()
        self.trouble = ""
        try:
            content = place.envelope(placed)
            envelope = parse_envelope(content)
            statement = parse_statement(statement_of(envelope))
            self._signed_by = tuple(signature.key_id for signature in envelope.signatures)
            if (statement.digest, statement.key.digest) != (placed.digest, placed.key):
                raise BrokenBundle("it is another bundle than the place says: remove it")
            self._statement = statement
            if keys is not None:
                Trust(keys=keys).admit(content)
        except (BrokenBundle, Untrusted, NotFound, *UNREAD) as error:
            self.trouble = str(error)

    @property
    def short(self) -> str:
        return self._placed.digest.removeprefix("sha256:")[:_SHORT]

    @property
    def row(self) -> tuple[str, ...]:
        statement = self._statement
        said = (
            (statement.name, statement.key.model.id, statement.key.accelerator.product)
            if statement
            else ("?", "?", "?")
        )
        return (
            self._placed.key[:_SHORT],
            self.short,
            human_bytes(self._placed.bytes),
            age(self._placed.created),
            *said,
            ", ".join(self._signed_by) or "nobody",
        )

    @property
    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "digest": self._placed.digest,
            "key": self._placed.key,
            "bytes": self._placed.bytes,
            "publishedAt": self._placed.created.isoformat(),
            "signedBy": list(self._signed_by),
        }
        if self._statement is not None:
            plain["statement"] = self._statement.to_document()
        if self.trouble:
            plain["message"] = self.trouble
        return plain


def _require_key(key: str) -> None:
    """Check that it is one, or none was given."""
    if key and not is_hex(key):
        raise UsageError(
            f"{key[:80]!r} is no key: 64 hex digits in lower case, as modelcache compile key prints"
            " them, and modelcache compile ls -o json"
        )


def _stopped_by_signals() -> Cancel:
    cancel = Cancel()
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread of its own: what it wakes may wait for what the signal has interrupted.
        signal.signal(number, lambda *_: threading.Thread(target=cancel.set, daemon=True).start())
    return cancel


def _open(place: str, secret: str | None, **given: Any) -> tuple[Place, FetchSettings]:
    found = settings(FetchSettings, **given)
    configure_logs(as_json=False, level="error")
    spare_metadata()
    origins = OriginSettings(
        root=found.root,
        file_roots=None,
        secrets=SecretStore(found.secrets_dir),
        network=Network(ca_bundle=found.ca_bundle, private_redirects=found.private_redirects),
    )
    return open_place(uri_of(place), secret, origins), found


def _chosen(place: Place, key: str, digest: str, trust: Trust, cancel: Cancel) -> Admitted:
    if digest:
        placed = place.find(digest)
        if placed is None:
            raise NotFound(f"{place.uri} has no bundle {digest}")
        return admit(place, placed, trust, cancel)
    refused: list[ModelCacheError] = []
    for found in admitted(place, key, trust, cancel, refused=lambda _, why: refused.append(why)):
        return found
    if refused:
        raise refused[0]
    raise NotFound(
        f"{place.uri} has no bundle for the key {key}: modelcache compile ls shows what is there"
    )


def _fetch(
    place: Place,
    chosen: Admitted,
    out: Path,
    found: FetchSettings,
    engine: Engine,
    book: ProgressBook,
    cancel: Cancel,
) -> LocalBundle:
    keep_bytes, keep_ratio = found.keep_free_parts
    # Not `resolve`: where links lead is whoever's business who made them.
    out = Path(os.path.abspath(out))
    name = chosen.statement.name
    with store_beside(out, KeepFree(keep_bytes, keep_ratio)) as store:
        fetcher = BundleFetcher(store, engine, book)
        try:
            return fetcher.fetch(place, chosen, place_in(out, chosen.statement), cancel, name=name)
        finally:
            engine.close()


def _plain(found: Admitted) -> dict[str, Any]:
    return {
        "digest": found.statement.digest,
        "key": found.statement.key.digest,
        "bytes": found.statement.archive.size,
    }
