"""Pictures as small files: a palette is enough for what has few colours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from PIL import Image

_COLOURS: Final = 128


def save(png: bytes, file: Path) -> None:
    """Write a picture that a browser took."""
    with Image.open(io.BytesIO(png)) as taken:
        small = taken.convert("RGB").quantize(
            _COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
    small.save(file, optimize=True)
