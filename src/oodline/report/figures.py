"""Figures of a run for papers: histograms, ROC, risk and coverage, told apart in grey as well as in colour."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oodline._util.files import write_atomically
from oodline.errors import DataError, missing_extra
from oodline.evaluation.risk_coverage import risk_coverage
from oodline.evaluation.run import Run
from oodline.report.contents import DetectorContents, id_name, ordered, read_contents
from oodline.report.curves import risk_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".png")

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
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
"""Of every figure, whatever the user's own matplotlib is set to."""

ID, OOD = "#8fb8d6", "#b34700"
LINES = (
    ("#000000", "-"),
    ("#d55e00", "--"),
    ("#0072b2", "-."),
    ("#009e73", ":"),
    ("#cc79a7", (0, (5, 1, 1, 1, 1, 1))),
    ("#5a6069", (0, (8, 2))),
    ("#e69f00", (0, (3, 1))),
)
"""Colours of Okabe and Ito with a pattern each, so that lines are told apart in grey."""


def write_figures(run: Run, folder: str | Path, *, detectors: Sequence[str] | None = None) -> list[Path]:
    """Draw histograms and ROC of each detector, and risk and coverage of all of them together.

    Parameters
    ----------
    run : Run
        As `read_run` reads it.
    folder : str or Path
        Made if it is not there; figures of the same name are replaced, other files stay.
    detectors : sequence of str, optional
        Labels. If omitted, the run's first one.

    Returns
    -------
    list of Path
        What was written: each figure as PDF and as PNG.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    UnknownNameError
        The run has no such detector.
    DataError
        A file cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_run
    >>> with TemporaryDirectory() as folder:
    ...     [path.name for path in write_figures(toy_run(f"{folder}/run"), f"{folder}/figures")][::2]
    ['histograms-energy.pdf', 'roc-energy.pdf', 'risk-coverage.pdf']
    """
    try:
        from matplotlib import rc_context, rcParamsDefault
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "figures") from error
    labels = list(dict.fromkeys(detectors or ordered(run)[:1]))
    ordered(run, labels)
    drawings: dict[str, Callable[[], Figure]] = {}
    for label in labels:
        contents, name = read_contents(run, label), _free(re.sub(r"[^\w.+-]", "_", label), drawings)
        if contents.pairs:
            drawings[f"histograms-{name}"] = partial(draw_histograms, run, label, contents)
        if run.sets("ood"):
            drawings[f"roc-{name}"] = partial(draw_roc, run, label, contents)
    if run.correct() is not None:
        drawings["risk-coverage"] = partial(draw_risk, run, labels)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"could not make the folder {folder}: {error.strerror}.") from error
    written = []
    with rc_context({k: v for k, v in rcParamsDefault.items() if k != "backend"} | STYLE):
        for name, draw in drawings.items():
            figure = draw()
            for ending in FORMATS:
                # without a date, the same run gives the same bytes
                about: dict[str, Any] = {"metadata": {"CreationDate": None}} if ending == ".pdf" else {}
                save = partial(figure.savefig, format=ending[1:], **about)
                written.append(write_atomically(Path(folder) / f"{name}{ending}", save))
                figure.set_layout_engine("none")  # both files have the layout of the first
    return written


def draw_histograms(run: Run, label: str, contents: DetectorContents) -> Figure:
    """Scores of ID (filled) and of each other set (outlined), a panel a set, the threshold dashed."""
    threshold = float(contents.ladder.thresholds[contents.ladder.marked])
    columns = min(3, len(contents.pairs))
    rows = -(-len(contents.pairs) // columns)
    figure = _figure(2.3 * columns, 1.6 * rows + 0.3)
    for place, (name, pair) in enumerate(contents.pairs.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        edges = np.linspace(pair.bins.low, pair.bins.high, len(pair.bins.id) + 1)
        axes.stairs(100 * pair.bins.id / pair.bins.id.sum(), edges, fill=True, color=ID, label=_short(id_name(run)))
        axes.stairs(
            100 * pair.bins.other / pair.bins.other.sum(), edges, color=OOD, linewidth=1.2, label="the other set"
        )
        if pair.bins.low <= threshold <= pair.bins.high:
            axes.axvline(threshold, color="black", linestyle="--", linewidth=0.9, label="threshold")
        axes.set_xlim(pair.bins.low, pair.bins.high)
        axes.set_title(_short(name), loc="left")
        if (place - 1) % columns == 0:
            axes.set_ylabel("% of each set")
        if place > len(contents.pairs) - columns:
            axes.set_xlabel(f"score of {_short(label)}")
    handles = {
        text: handle for axes in figure.axes for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3)
    return figure


def draw_roc(run: Run, label: str, contents: DetectorContents) -> Figure:
    """The ROC curve of each OOD set, with its AUROC."""
    figure = _figure(3.3, 3.1)
    axes = figure.add_subplot()
    for place, name in enumerate(run.sets("ood")):
        pair = contents.pairs[name]
        if pair.roc is not None and pair.auroc is not None:
            colour, pattern = LINES[place % len(LINES)]
            axes.plot(*pair.roc, color=colour, linestyle=pattern, label=f"{_short(name)} ({100 * pair.auroc:.1f})")
    axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="OOD accepted", ylabel="ID accepted", aspect="equal")
    axes.set_title(f"{_short(label)} (AUROC, %)", loc="left")
    axes.legend(loc="lower right")
    return figure


def draw_risk(run: Run, labels: Sequence[str]) -> Figure:
    """Risk and coverage of each detector, on ID test data alone (thin), and with all OOD images (thick)."""
    figure = _figure(3.3, 2.8)
    axes = figure.add_subplot()
    right = run.correct()
    assert right is not None
    for place, label in enumerate(labels):
        colour, pattern = LINES[place % len(LINES)]
        ours = run.pooled(("id",))[label]
        if run.sets("ood"):
            curve = risk_coverage(ours, right, run.pooled(("ood",))[label])
            text = f"{_short(label)}, ID and OOD (AURC {curve.aurc:.3f})"
            axes.plot(*risk_curve(curve), color=colour, linestyle=pattern, label=text)
        curve = risk_coverage(ours, right)
        text = f"{_short(label)}, ID alone (AURC {curve.aurc:.3f})"
        axes.plot(*risk_curve(curve), color=colour, linestyle=pattern, linewidth=0.7, label=text)
    axes.set(xlim=(0, 1), xlabel="inputs answered", ylabel="answers that are wrong")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _short(name: str, most: int = 24) -> str:
    """A name that leaves room for the drawing."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _free(name: str, taken: dict[str, Any]) -> str:
    while f"histograms-{name}" in taken or f"roc-{name}" in taken:
        name += "_"
    return name
