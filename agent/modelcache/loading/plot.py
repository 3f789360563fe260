"""A picture of how fast files load: speed over read-ahead, a line for each way of reading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelcache.errors import UsageError
from modelcache.loading.studying import Finding
from modelcache.loading.verdict import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS: Final = (".svg", ".png")
_MEBIBYTE: Final = 2**20
_SIZE_INCHES: Final = (8.0, 4.5)
_DOTS_PER_INCH: Final = 150


def check_plot(path: Path) -> None:
    """See that a picture can be drawn, before anything is measured for it.

    Raises:
        UsageError: it can't.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: pictures are drawn as {' or '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.absolute().parent} is not there")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "pictures need matplotlib, which is not installed here: pip install"
            " 'model-cache-agent[plot]'"
        ) from error


def plot(finding: Finding, title: str, path: Path) -> None:
    """Draw what was measured. The present read-ahead and the recommended one are marked.

    Args:
        finding: with figures.
        title: what was measured.
        path: a file, whose suffix says which format.

    Raises:
        UsageError: there is no matplotlib, or no such format.
        OSError: it can't be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=_SIZE_INCHES, layout="constrained")
    axes = picture.add_subplot()
    lines: dict[str, list[Figure]] = {}
    for figure in finding.figures:
        lines.setdefault(figure.way.value, []).append(figure)
    for number, (way, figures) in enumerate(lines.items()):
        _draw(axes, way, figures, f"C{number}")
    values = sorted({f.read_ahead_kb for f in finding.figures if f.read_ahead_kb is not None})
    if min(values, default=0) > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(values, labels=[str(kib) for kib in values])
    axes.set_xticks([], minor=True)
    axes.tick_params(axis="x", rotation=45)  # the present value may be beside another
    axes.set_ylim(bottom=0)
    _mark(axes, finding)
    axes.set_xlabel("read_ahead_kb (KiB)")
    axes.set_ylabel("MiB/s, median of cold reads, slowest to fastest round")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside right center", frameon=False)
    picture.savefig(path, dpi=_DOTS_PER_INCH)


def _draw(axes: Axes, way: str, figures: list[Figure], colour: str) -> None:
    middle = [figure.median / _MEBIBYTE for figure in figures]
    low = [min(figure.rates) / _MEBIBYTE for figure in figures]
    high = [max(figure.rates) / _MEBIBYTE for figure in figures]
    values = [figure.read_ahead_kb for figure in figures if figure.read_ahead_kb is not None]
    if not values:  # one value for all read-aheads
        axes.axhline(middle[0], color=colour, linestyle="--", label=way)
        axes.axhspan(low[0], high[0], color=colour, alpha=0.1, linewidth=0)
        return
    below = [m - least for m, least in zip(middle, low, strict=True)]
    above = [most - m for m, most in zip(middle, high, strict=True)]
    axes.errorbar(
        *(values, middle),
        yerr=(below, above),
        color=colour,
        marker="o",
        markersize=4,
        capsize=3,
        elinewidth=1,
        label=way,
    )


def _mark(axes: Axes, finding: Finding) -> None:
    if finding.present_kb is not None:
        axes.axvline(finding.present_kb, color="grey", linestyle=":", label="set now")
    if finding.read_ahead_kb is not None:
        label = f"recommended\nfor {finding.way}"
        axes.axvline(finding.read_ahead_kb, color="black", linestyle=":", label=label)
