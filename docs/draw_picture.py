"""Draw the picture of the README: what a classifier says of four images, and what a guard says beside it.

    python docs/draw_picture.py

trains the small network of `oodline demo` on the digits 0 to 7, guards it with the default detector, and writes
`docs/_static/oodline.png`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import oodline as ol
from oodline.cli.demo import batches, demo_data, train

PATH = Path(__file__).parent / "_static" / "oodline.png"
SETS = {"test": "a digit 0 to 7", "digits 8, 9": "a digit 8 or 9", "photographs": "part of a photo", "noise": "noise"}
COLOURS = {"test": "#0072B2", "digits 8, 9": "#E69F00", "photographs": "#D55E00", "noise": "#777777"}


def main() -> None:
    """Train, guard, draw."""
    torch.manual_seed(0)
    sets = demo_data()
    classifier = ol.Classifier(train(*sets["train"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = ol.default(classifier).fit(classifier, batches(*sets["train"]))
    guard = ol.Guard(classifier, detector).calibrate(batches(*sets["calibration"]), false_alarm=0.05)

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    images, histogram = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    for axes, (name, title) in zip(images.subplots(2, 2).flat, SETS.items(), strict=True):
        example, verdict = typical(guard, sets[name][0])
        axes.imshow(example.squeeze(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        flagged = bool(verdict.is_ood)
        words = f"p = {float(verdict.p_value):.2f}, {'FLAGGED' if flagged else 'accepted'}"
        axes.set_title(f"{title}\nclassifier: “{int(verdict.label)}”", fontsize=9)
        axes.set_xlabel(words, color="#B00020" if flagged else "#00602B", fontsize=10, fontweight="bold")

    axes = histogram.subplots()
    scores = {name: guard(sets[name][0]).score.numpy() for name in SETS}
    lowest = np.percentile(np.concatenate(list(scores.values())), 5)
    edges = np.linspace(lowest, max(values.max() for values in scores.values()), 45).tolist()
    for name, values in scores.items():
        label = "digits 0 to 7 (ID)" if name == "test" else f"{name} (OOD)"
        axes.hist(np.clip(values, lowest, None), edges, density=True, alpha=0.55, label=label, color=COLOURS[name])
    threshold = float(guard(sets["test"][0][:1]).threshold)
    axes.axvline(threshold, color="black", linestyle="--", label="threshold: 5 % false alarms")
    axes.set(xlabel="score (higher = more in-distribution)", yticks=[])
    axes.set_title("It knows the digits 0 to 7 only", fontsize=10)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.42, 1))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(PATH, dpi=100, facecolor="white")
    print(f"wrote {PATH.relative_to(Path(__file__).parents[1])}, {PATH.stat().st_size / 1e3:.0f} kB")


def typical(guard: ol.Guard, images: torch.Tensor) -> tuple[torch.Tensor, ol.Verdict]:
    """The image of a set whose score is its median, and its verdict."""
    order = guard(images).score.argsort()
    chosen = images[order[len(order) // 2]]
    return chosen, guard(chosen[None])


if __name__ == "__main__":
    main()
