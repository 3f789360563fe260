"""Why an archive's member is another than its manifest says: for the message, and for nothing else.

The refusal stands already; here tarfile may read a hostile header, and whatever it makes of it is
only text.
"""

from __future__ import annotations

import tarfile
from typing import Final

from modelcache.compilecache.bundles.manifest import BundleManifest
from modelcache.compilecache.bundles.members import BLOCK, END, Member, members
from modelcache.compilecache.trees.naming import shown

_SPECIAL: Final = 0o7000
_KINDS: Final = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a fifo",
    tarfile.DIRTYPE: "a directory",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header for all that follows",
    tarfile.GNUTYPE_LONGNAME: "a header of GNU tar",
    tarfile.GNUTYPE_LONGLINK: "a header of GNU tar",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def why_another(found: bytes, wanted: Member | None, manifest: BundleManifest) -> str:
    """A sentence on a header that is not the one that was wanted.

    Args:
        found: what is there; short at the archive's end.
        wanted: what should be; None: the archive's end.
    """
    place = f"where {shown(wanted.file.path)} should be" if wanted else "after the last file"
    ended = wanted is None and not any(found)
    if len(found) < (len(END) if ended else BLOCK):
        return f"the archive breaks off {place}"
    if not any(found[:BLOCK]):
        if wanted is None:
            return "the archive has something hidden after its end: refused"
        return f"the archive ends {place}: a file of the manifest is missing"
    try:
        info = tarfile.TarInfo.frombuf(found[:BLOCK], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError):
        return f"the archive has no header {place}: refused"
    return f"the archive has {_about(info, wanted, manifest)}, {place}: refused"


def _about(info: tarfile.TarInfo, wanted: Member | None, manifest: BundleManifest) -> str:
    name = shown(info.name)
    if info.type != tarfile.REGTYPE:
        kind = _KINDS.get(info.type, "a member of an unknown kind")
        target = f" to {shown(info.linkname)}" if info.linkname else ""
        return f"{kind} {name}{target}"
    if info.name.startswith("/"):
        return f"the absolute path {name}"
    if ".." in info.name.split("/"):
        return f"{name}, which leads out of the directory"
    if info.mode & _SPECIAL:
        return f"{name} with a setuid, setgid or sticky bit"
    if info.uid or info.gid or info.uname or info.gname:
        return f"{name}, which belongs to another user"
    if wanted is not None and info.name == wanted.name:
        if info.size != wanted.file.size:
            return f"{name} with {info.size} bytes instead of {wanted.file.size}"
        return f"{name} with another header"
    if any(info.name == member.name for member in members(manifest)):
        return f"{name} a second time, or out of order"
    return f"{name}, which the manifest doesn't have"
