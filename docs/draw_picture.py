"""Draw the picture of the README: what a classifier says of four images, and what a guard says beside it.

    python docs/draw_picture.py

trains the small network of `oodline demo` on the digits 0 to 7, guards it with the default detector, and writes
`docs/_static/oodline.png`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

import oodline as ol
from oodline._util.drawing import ACCEPTED, FLAGGED, new_figure, styled
from oodline.cli.demo import batches, demo_data, train
from oodline.cli.demo_picture import draw_scores

PATH = Path(__file__).parent / "_static" / "oodline.png"
SETS = {"test": "a digit 0 to 7", "digits 8, 9": "a digit 8 or 9", "photographs": "part of a photo", "noise": "noise"}
NAMES = {"test": "digits 0 to 7", **{name: name for name in SETS if name != "test"}}


def main() -> None:
    """Train, guard, draw."""
    torch.manual_seed(0)
    sets = demo_data()
    classifier = ol.Classifier(train(*sets["train"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = ol.default(classifier).fit(classifier, batches(*sets["train"]))
    guard = ol.Guard(classifier, detector).calibrate(batches(*sets["calibration"]), false_alarm=0.05)

    with styled(scale=1.2):
        figure = new_figure(9, 4.2)
        images, histogram = figure.subfigures(1, 2, width_ratios=(1, 1.25))
        for axes, (name, title) in zip(images.subplots(2, 2).flat, SETS.items(), strict=True):
            example, verdict = typical(guard, sets[name][0])
            axes.imshow(example.squeeze(), cmap="gray_r", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(True)
            flagged = bool(verdict.is_ood)
            words = f"p = {float(verdict.p_value):.2f}, {'FLAGGED' if flagged else 'accepted'}"
            axes.set_title(f"{title}\nclassifier: “{int(verdict.label)}”", loc="center")
            axes.set_xlabel(words, color=FLAGGED if flagged else ACCEPTED, weight="bold")

        axes = histogram.subplots()
        draw_scores(axes, guard, {NAMES[name]: sets[name][0] for name in SETS})
        axes.set_title("It knows the digits 0 to 7 only", weight="bold")
        figure.savefig(PATH, dpi=100)
    print(f"wrote {PATH.relative_to(Path(__file__).parents[1])}, {PATH.stat().st_size / 1e3:.0f} kB")


def typical(guard: ol.Guard, images: torch.Tensor) -> tuple[torch.Tensor, ol.Verdict]:
    """The image of a set whose score is its median, and its verdict."""
    order = guard(images).score.argsort()
    chosen = images[order[len(order) // 2]]
    return chosen, guard(chosen[None])


if __name__ == "__main__":
    main()
