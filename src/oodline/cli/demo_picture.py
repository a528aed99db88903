"""The demo's picture: the scores of every set, and the threshold between those that are accepted and flagged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodline._util.drawing import ID, SETS, THRESHOLD, new_figure, styled
from oodline._util.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from oodline.guard.guard import Guard


def draw(guard: Guard, sets: Mapping[str, Tensor], path: Path) -> Path:
    """Write the histograms of the first set, which is ID, and of all others, as PNG."""
    with styled(scale=1.25):
        figure = new_figure(8, 4.2)
        axes = figure.add_subplot()
        draw_scores(axes, guard, sets)
        axes.set_title("A guard of the digits 0 to 7 flags images of anything else", weight="bold")
        return write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def draw_scores(axes: Any, guard: Guard, sets: Mapping[str, Tensor]) -> None:
    """Histograms over each other, each of the same area, with the share of each set that is flagged."""
    import numpy as np

    verdicts = {name: guard(images) for name, images in sets.items()}
    scores = {name: verdict.score.numpy() for name, verdict in verdicts.items()}
    every = np.concatenate(list(scores.values()))
    low = float(np.quantile(every, 0.01))  # a few far below would press all others together
    edges = np.linspace(low, float(every.max()), 41)
    for (name, values), colour in zip(scores.items(), (ID, *SETS), strict=False):
        role = "ID" if colour == ID else "OOD"
        flagged = 100 * float(verdicts[name].is_ood.float().mean())
        shares = np.histogram(np.clip(values, low, None), edges)[0] / len(values)
        # filled lightly and outlined, so that each is seen where they overlap
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.6 if role == "ID" else 0.25)
        axes.stairs(shares, edges, color=colour, linewidth=1.3)
        axes.fill([], [], facecolor=(colour, 0.5), edgecolor=colour, label=f"{name} ({role}): {flagged:.0f} % flagged")
    threshold, top = float(next(iter(verdicts.values())).threshold[0]), 1.6 * axes.get_ylim()[1]
    # the upper third is the legend's
    axes.axvline(threshold, ymax=0.66, **THRESHOLD, label="threshold, for at most 5 % false alarms")
    for words, side in (("← flagged  ", "right"), ("  accepted →", "left")):
        axes.text(threshold, 0.66 * top, words, ha=side, va="top", weight="bold")
    axes.set(xlim=(low, edges[-1]), ylim=(0, top), yticks=[], xlabel="score (higher = more in-distribution)")
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper left", borderaxespad=0)
