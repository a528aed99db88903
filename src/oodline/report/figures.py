"""Figures of a run for papers: histograms, ROC, risk and coverage, told apart in grey as well as in colour."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oodline._util.drawing import FLAGGED, ID, LINES, OOD, SOFT, THRESHOLD, new_figure, short, styled
from oodline._util.files import write_atomically
from oodline.errors import DataError
from oodline.evaluation.risk_coverage import risk_coverage
from oodline.evaluation.run import Run
from oodline.report.contents import DetectorContents, id_name, ordered, read_contents
from oodline.report.curves import BEGINNING, risk_curve, tallest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".png")


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
    with styled():
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
    """Scores of ID (filled) and of each other set (outlined), a panel a set on common axes, the threshold dashed."""
    threshold, top = (
        float(contents.ladder.thresholds[contents.ladder.marked]),
        1.08 * tallest([pair.bins for pair in contents.pairs.values()]),
    )
    columns = min(4 if len(contents.pairs) in (4, 7, 8) else 3, len(contents.pairs))  # no last row of one
    rows = -(-len(contents.pairs) // columns)
    figure = new_figure(max(2.1 * columns, 3.3), 1.5 * rows + 0.4)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, pair) in zip(panels.flat, contents.pairs.items(), strict=False):
        edges = np.linspace(pair.bins.low, pair.bins.high, len(pair.bins.id) + 1)
        own, other = pair.bins.id / pair.bins.id.sum(), pair.bins.other / pair.bins.other.sum()
        axes.stairs(own, edges, fill=True, color=ID, alpha=0.55, label=f"{short(id_name(run))} (ID)")
        axes.stairs(other, edges, color=OOD, linewidth=1.3, label="the set named above each panel")
        for place, x, side in ((0, 0.06, "left"), (-1, 0.94, "right")):
            if other[place] > top:  # a set that lies far beyond the axis, all of it in one bin
                words = f"{100 * other[place]:.0f} % here or {'below' if place == 0 else 'above'}"
                axes.text(x, 0.97, words, color=FLAGGED, size=7, ha=side, va="top", transform=axes.transAxes)
        if pair.bins.low <= threshold <= pair.bins.high:
            axes.axvline(threshold, **THRESHOLD, label="threshold")
        axes.set(xlim=(pair.bins.low, pair.bins.high), ylim=(0, top))
        axes.set_title(_titled(run, name))
        axes.yaxis.set_major_formatter(_percent)
    for axes in panels.flat[len(contents.pairs) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel(f"score of {short(label)}")
    for axes in panels[:, 0]:
        axes.set_ylabel("share of each set")
    handles = {
        text: handle for axes in figure.axes for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3)
    return figure


def draw_roc(run: Run, label: str, contents: DetectorContents) -> Figure:
    """The ROC curve of each OOD set, with its AUROC."""
    figure = new_figure(3.3, 3.3)
    axes = figure.add_subplot()
    for place, name in enumerate(run.sets("ood")):
        pair = contents.pairs[name]
        if pair.roc is not None and pair.auroc is not None:
            colour, pattern = LINES[place % len(LINES)]
            text = f"{_titled(run, name)} {100 * pair.auroc:.1f}"
            axes.plot(*pair.roc, color=colour, linestyle=pattern, label=text)
    axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="OOD accepted", ylabel="ID accepted", aspect="equal")
    axes.xaxis.set_major_formatter(_percent)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_title(f"{short(label)}: ROC")
    axes.legend(loc="lower right", title="AUROC, %", title_fontsize=7, alignment="left")
    return figure


def draw_risk(run: Run, labels: Sequence[str]) -> Figure:
    """Risk and coverage of each detector: with all OOD images, and on ID test data alone."""
    right = run.correct()
    assert right is not None
    panels = {"ID and OOD": run.pooled(("ood",))} if run.sets("ood") else {}
    figure = new_figure(3.0 * (1 + len(panels)) + 0.3, 2.9)
    # with OOD images the risk is of another size: the panels have the coverage in common, not the risk
    for axes, (title, others) in zip(
        figure.subplots(1, 1 + len(panels), sharex=True, squeeze=False).flat,
        {**panels, "ID alone": {}}.items(),
        strict=True,
    ):
        for place, label in enumerate(labels):
            colour, pattern = LINES[place % len(LINES)]
            ours = run.pooled(("id",))[label]
            curve = risk_coverage(ours, right, others.get(label))
            points = risk_curve(curve, len(ours) + len(others.get(label, ())))
            axes.plot(*points, color=colour, linestyle=pattern, label=f"{short(label)} {curve.aurc:.3f}")
        axes.set(xlim=(0, 1), xlabel="coverage: inputs answered")
        axes.set_ylim(0, max(axes.get_ylim()[1], 0.01))
        axes.xaxis.set_major_formatter(_percent)
        axes.yaxis.set_major_formatter(_percent)
        # above the panel, where it hides no curve
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), title=f"{title}, AURC", title_fontsize=8, alignment="left", ncols=2
        )
    figure.axes[0].set_ylabel("risk: answers that are wrong")
    figure.supxlabel(BEGINNING, size=6, color=SOFT, x=0.01, ha="left")
    return figure


def _percent(value: float, _: float) -> str:
    return f"{100 * value:g} %"


def _titled(run: Run, name: str) -> str:
    """A set with its group, or with its role where it is not OOD."""
    group = (
        "shifted ID" if name in run.sets("csid") else next((g for g, names in run.groups.items() if name in names), "")
    )
    return f"{short(name)} ({short(group, 12)})" if group else short(name)


def _free(name: str, taken: dict[str, Any]) -> str:
    while f"histograms-{name}" in taken or f"roc-{name}" in taken:
        name += "_"
    return name
