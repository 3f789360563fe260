"""modelcache compile keygen, pack, inspect, verify, import-mcv: bundles, by hand."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from modelcache import __version__
from modelcache.api.meta import NAME_MAX, NAME_PATTERN
from modelcache.cli.keyfiles import read_keys
from modelcache.cli.options import Output
from modelcache.cli.output import Format, human_bytes, one_line, print_json, print_table
from modelcache.cli.trusting import Digests, PublicKeys, trust_of
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.manifest import BundleManifest
from modelcache.compilecache.bundles.mcvimages import read_image
from modelcache.compilecache.bundles.packing import pack as pack_tree
from modelcache.compilecache.bundles.signing import SigningKey, unsigned
from modelcache.compilecache.bundles.statement import Producer, Statement
from modelcache.compilecache.bundles.unpacking import check
from modelcache.compilecache.engines.evidence import Evidence
from modelcache.compilecache.engines.factors import hashes_of
from modelcache.compilecache.engines.table import table
from modelcache.compilecache.trees.scanning import scan
from modelcache.errors import UsageError
from modelcache.store.durable import Durable

Bundle = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle's directory, with its bundle.json.")
]


def keygen(
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The private key; FILE.pub is the public one.")
    ],
    output: Output = Format.TABLE,
) -> None:
    """Make a key to sign bundles with (Ed25519, in PEM, without a password).

    The private key is for whoever publishes, the public one for every agent.
    """
    if not out.name:
        raise UsageError(f"--out {out}: the name of a file is wanted")
    key = SigningKey.generate()
    public = out.with_name(f"{out.name}.pub")
    _write_new(out, key.to_pem(), 0o600)
    try:
        _write_new(public, key.public.to_pem(), 0o644)
    except BaseException:
        out.unlink()
        raise
    if output is Format.JSON:
        content = {"keyId": key.key_id, "privateKey": str(out), "publicKey": str(public)}
        print_json("SigningKey", content)
        return
    print(f"Key {key.key_id}: {out} signs, {public} is what agents trust")


def pack(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The cache directory of an engine that is quiet.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="The CompileCache's name.")],
    key_file: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="What it was compiled for: what `compile key -o json` prints."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The bundle's directory, to be made.")],
    sign: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The private key to sign it with.")
    ] = None,
    gzip: Annotated[
        bool, typer.Option("--gzip", help="Compress by gzip, which GKM's MCV reads.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Pack a cache directory into a bundle, and sign it.

    What the engine's table says is packed; locks, temporary files and notes of the environment are
    left out, since these may hold secrets. The directory must not be in use.
    """
    name = _checked_name(name)
    (named,) = read_keys(key_file)[:1]
    engines = table()
    engine = engines.get(named.key.engine.name, engines["other"])
    signer = SigningKey.load(sign) if sign is not None else None
    if os.path.lexists(out):
        raise UsageError(f"{out} is there already: a bundle is never written over")
    tree = scan(directory, engine.wanted)
    if tree.oddities:
        raise UsageError(
            f"{directory} has what can't be in a bundle ({tree.oddities} in all):"
            f" {tree.odd[0].sentence}"
        )
    if not tree.entries:
        raise UsageError(f"{directory} has nothing in it that {engine.name} would load")
    with _scratch(out) as scratch:
        made = pack_tree(
            directory, tree, scratch / "archive", compression="gzip" if gzip else "zstd"
        )
        statement = Statement(
            name=name,
            key=named.key,
            archive=made.archive,
            engine_hashes=hashes_of(directory, tree),
            producer=Producer(version=__version__),
            evidence=Evidence(source="files"),
            created_at=datetime.now(UTC),
        )
        envelope = signer.sign(statement) if signer else unsigned(statement)
        bundle = LocalBundle.write(out, envelope, scratch / "archive", Durable(scratch))
    if output is Format.JSON:
        print_json("CompileBundlePacked", _plain(bundle) | {"leftOut": len(tree.unwanted)})
        return
    _tell(bundle)
    if tree.unwanted:
        print(f"{'Left out:':<14}{len(tree.unwanted)} files, such as {tree.unwanted[0].path}")


def inspect(
    directory: Bundle,
    files: Annotated[
        bool, typer.Option("--files", help="List the files, too, which reads the whole archive.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show what a bundle says of itself, whether or not it is true. `verify` checks it."""
    bundle = LocalBundle.open(directory)
    manifest = check(bundle.archive, bundle.statement) if files else None
    if output is Format.JSON:
        content = {"files": manifest.to_document()["files"]} if manifest else {}
        print_json("CompileBundleReport", _plain(bundle) | content)
        return
    _tell(bundle)
    if manifest is not None:
        print()
        print_table(["PATH", "SIZE", "MODE", "DIGEST"], _rows(manifest))


def verify(
    directory: Bundle,
    public_key: PublicKeys = None,
    digest: Digests = None,
    output: Output = Format.TABLE,
) -> None:
    """Check a bundle: who signed it, and every byte of its archive. Exit code 5 if it is refused.

    Without --public-key and --digest nobody is trusted, and only the archive is checked.
    """
    bundle = LocalBundle.open(directory)
    trust = trust_of(public_key, digest)
    if trust is not None:
        trust.admit(bundle.envelope_bytes)
    manifest = check(bundle.archive, bundle.statement)
    if output is Format.JSON:
        content = {"digest": bundle.digest, "trusted": trust is not None}
        print_json("CompileBundleVerified", content | {"files": len(manifest.files)})
        return
    size = human_bytes(manifest.bytes)
    print(f"{bundle.digest}: whole, {len(manifest.files)} files with {size}")
    if trust is None:
        print("Whom it comes from was not checked: give --public-key or --digest.")
    else:
        print("It is signed by a trusted key, or pinned.")


def import_mcv(
    layout: Annotated[
        Path,
        typer.Argument(metavar="LAYOUT", help="An OCI layout: skopeo copy docker://... oci:LAYOUT"),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The cache directory, to be made.")],
    output: Output = Format.TABLE,
) -> None:
    """Unpack an image that GKM's MCV made into a cache directory, from which `pack` makes a bundle.

    Nobody vouches for it but you, who packs and signs it.
    """
    found = read_image(layout, out)
    if output is Format.JSON:
        content = {"files": found.files, "bytes": found.bytes, "cacheDir": found.cache_dir}
        print_json("McvImage", {**content, "labels": dict(found.labels)})
        return
    print(f"{out}: {found.files} files with {human_bytes(found.bytes)}")
    if found.cache_dir:
        print(f"Engines find it only at cacheDir {one_line(found.cache_dir)}, as it was captured.")
    else:
        print("Where it was captured its labels don't say: an engine finds it only at that path.")


def _checked_name(name: str) -> str:
    if len(name) > NAME_MAX or not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"--name {name[:80]}: lower-case letters, digits and hyphens are wanted, at most"
            f" {NAME_MAX}"
        )
    return name


def _plain(bundle: LocalBundle) -> dict[str, Any]:
    return {
        "digest": bundle.digest,
        "key": bundle.statement.key.digest,
        "statement": bundle.statement.to_document(),
        "signedBy": [signature.key_id for signature in bundle.envelope.signatures],
        "path": str(bundle.directory),
    }


def _tell(bundle: LocalBundle) -> None:
    for label, value in _facts(bundle):
        if value:
            print(f"{label + ':':<14}{one_line(value)}")


def _facts(bundle: LocalBundle) -> Iterator[tuple[str, str]]:
    said, key = bundle.statement, bundle.statement.key
    archive, seconds = said.archive, said.evidence.compile_seconds
    gpu = key.accelerator
    yield "Bundle", bundle.digest
    yield "Name", said.name
    yield "Key", key.digest
    yield "Engine", f"{key.engine.name} {key.engine.identity}"
    yield "Accelerator", " ".join(filter(None, (gpu.vendor, gpu.product, gpu.mig)))
    yield "CPU", f"{key.cpu.arch} {key.cpu.isa}"
    yield "Model", f"{key.model.id} {key.model.revision}".strip()
    yield "Trust domain", key.trust_domain
    yield "Captured", said.created_at.isoformat()
    yield (
        "By",
        " ".join(
            filter(
                None, (f"modelcache {said.producer.version}", said.producer.node, said.producer.pod)
            )
        ),
    )
    yield "Compiling", f"{seconds:.1f} s" if seconds is not None else ""
    yield "Directories", " ".join(said.engine_hashes.directories)
    yield "Files", f"{archive.files} with {human_bytes(archive.bytes)}"
    yield "Archive", f"{bundle.archive.name}, {human_bytes(archive.size)}, {archive.digest}"
    signers = " ".join(signature.key_id for signature in bundle.envelope.signatures)
    yield "Signed by", signers or "nobody"


def _rows(manifest: BundleManifest) -> list[list[str]]:
    return [
        [file.path, human_bytes(file.size), f"{file.mode:04o}", f"sha256:{file.sha256}"]
        for file in manifest.files
    ]


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A directory beside where the bundle is to be, on the same file system."""
    try:
        folder = tempfile.mkdtemp(prefix=".modelcache-", dir=out.absolute().parent)
    except FileNotFoundError as error:
        raise UsageError(f"{out.absolute().parent} is not there: make it first") from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already: keys are never written over") from error
    except FileNotFoundError as error:
        raise UsageError(f"{path.absolute().parent} is not there: make it first") from error
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
