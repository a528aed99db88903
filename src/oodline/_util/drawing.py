"""One style for every picture: colours by what they mean, fonts, and a figure that needs no screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from oodline.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, OOD = "#0072b2", "#d55e00"
"""Data that is ID, or accepted; data that is OOD, or flagged. The report's page has the same two."""

ACCEPTED, FLAGGED = "#005a8c", "#b34700"
"""The same two for words, dark enough to be read on white."""

INK, SOFT, QUIET = "#1c1e21", "#5a6069", "#c9ccd1"
"""Text; text beside it; what is only there to be compared with."""

SETS = ("#e69f00", OOD, "#777777", "#009e73", "#cc79a7")
"""OOD sets that are drawn over each other."""

LINES: tuple[tuple[str, Any], ...] = (
    ("#000000", "-"),
    (OOD, "--"),
    (ID, "-."),
    ("#009e73", ":"),
    ("#cc79a7", (0, (5, 1, 1, 1, 1, 1))),
    ("#5a6069", (0, (8, 2))),
    ("#e69f00", (0, (3, 1))),
)
"""Colours of Okabe and Ito with a pattern each, so that lines are told apart in grey."""

THRESHOLD = {"color": "black", "linestyle": "--", "linewidth": 1.1}

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "text.color": INK,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
    "text.parse_math": False,  # a name is shown as it is written
}
"""Sizes are those of a figure that is printed as large as it is."""


@contextmanager
def styled(scale: float = 1.0) -> Iterator[None]:
    """Draw and save in the project's style, whatever the user's own matplotlib is set to.

    Parameters
    ----------
    scale : float
        Text is larger by this factor, for a picture that is looked at on a screen.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context, rcParamsDefault
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "pictures") from error
    sizes = {name: scale * value for name, value in STYLE.items() if name.endswith("size") and isinstance(value, int)}
    with rc_context({k: v for k, v in rcParamsDefault.items() if k != "backend"} | STYLE | sizes):
        yield


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty white figure, in inches, that any thread may draw on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **{"layout": "constrained", **options})
    FigureCanvasAgg(figure)
    return figure


def short(name: str, most: int = 24) -> str:
    """A name that leaves room for the drawing.

    Examples
    --------
    >>> short("a-name-of-many-letters", 8)
    'a-name-…'
    """
    return name if len(name) <= most else f"{name[: most - 1]}…"
