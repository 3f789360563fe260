"""Reading gzip from strangers: one stream, and nothing that takes long to pass over.

`gzip.GzipFile` reads the name in a header byte by byte, however long it is, and takes any number of
streams after each other.
"""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO, Final

from modelcache.errors import BrokenBundle

_GZIP: Final = 31
"""zlib's window bits for a gzip header and trailer, whose checksum it compares (zlib.h)."""
_READ_BYTES: Final = 256 * 1024


class GzipStream(io.RawIOBase):
    """What is in a file. Put a `BufferedReader` before it.

    Raises:
        zlib.error: it is no gzip.
        BrokenBundle: something comes after it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpacker = zlib.decompressobj(wbits=_GZIP)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """The next bytes; 0 at the end, be that the stream's or the file's."""
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(_READ_BYTES)
            if not packed:
                return 0
            found = self._unpacker.decompress(packed, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)
        if self._unpacker.unused_data or self._file.read(1):
            raise BrokenBundle("the archive has something hidden after its end: refused")
        return 0
