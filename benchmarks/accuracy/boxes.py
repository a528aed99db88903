"""Boxes: regions that the network of `benchmarks.accuracy.segmentation` finds on canvases, some of unknown objects.

    python -m benchmarks.accuracy.segmentation --model seg.pt
    python -m benchmarks.accuracy.boxes --model seg.pt [--shared ../shared] [--output FILE]

A detector of torchvision is too slow to train here, so this is also an adapter for something else: a box is a connected
region of pixels that are not background, its features are their mean. The head is linear, so that its logits are the
mean of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks._canvases import UNKNOWN
from benchmarks.accuracy.segmentation import FALSE_ALARM, HELD_OUT, NAMES, OOD, TEST, Segmenter, draw, interval
from cyclopts import App
from scipy import ndimage
from torch import Tensor, nn

import oodline as ol
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.guard.fit_guards import fit_guards

DETECTORS = ("msp", "energy", "mahalanobis", "relative-mahalanobis", "vim", "knn,k=10", "react", "line")
LEAST = 12
"""Pixels of the map, half as fine as the canvas, that make a region."""

app = App()


def regions(model: nn.Module, images: Tensor) -> list[ol.FoundBoxes]:
    """The adapter: connected regions of known classes, as boxes."""
    assert isinstance(model, Segmenter)
    features = model.features(images)
    logits = model.head(features)
    found = []
    for image_features, image_logits in zip(features, logits, strict=True):
        marked, count = ndimage.label((image_logits.argmax(0) > 0).numpy())
        slices = ndimage.find_objects(marked)
        rows = []
        for i in range(1, count + 1):
            inside = torch.from_numpy(marked == i)
            if int(inside.sum()) < LEAST:
                continue
            ys, xs = slices[i - 1]
            box = 2 * torch.tensor([xs.start, ys.start, xs.stop, ys.stop], dtype=torch.float32)
            rows.append((image_features[:, inside].mean(1), image_logits[:, inside].mean(1), box))
        nothing = (features.new_zeros(0, features.shape[1]), logits.new_zeros(0, len(NAMES)), torch.zeros(0, 4))
        f, z, b = [torch.stack([row[i] for row in rows]) for i in range(3)] if rows else nothing
        known = z[:, 1:].softmax(1)
        sure, label = known.max(1) if len(z) else (z.new_zeros(0), torch.zeros(0, dtype=torch.int64))
        found.append(ol.FoundBoxes(f, z, b, sure, label + 1))
    return found


def unknown(boxes: Tensor, mask: Tensor) -> bool | None:
    """Whether a box holds an unknown object, by most of its object pixels; None where it holds none."""
    x0, y0, x1, y1 = (int(v) for v in boxes)
    inside = mask[y0:y1, x0:x1]
    objects = inside[inside > 0]
    return None if len(objects) == 0 else bool((objects == UNKNOWN).double().mean() > 0.5)


@app.default
def main(*, model: Path, shared: Path = Path("../shared"), output: Path | None = None) -> None:
    """Fit, calibrate per image and per box, measure.

    Parameters
    ----------
    model
        Weights that `benchmarks.accuracy.segmentation --model` wrote.
    shared
        As there.
    output
        File for the table.
    """
    network = Segmenter().eval()
    network.load_state_dict(torch.load(model, weights_only=True))
    weight, bias = network.head.weight.detach().flatten(1), network.head.bias.detach()
    head = ol.LinearHead(weight, bias, "head")
    fresh, held_out = draw(shared, "train", 2_000, seed=1)[0], draw(shared, "held-out", HELD_OUT)[0]
    same = draw(shared, "held-out", TEST, first=HELD_OUT)[0]
    odd = {name: draw(shared, "test", TEST, kinds, seed=1) for name, kinds in OOD.items()}
    rows = []
    for promise in ("image", "box"):
        classifier = ol.BoxClassifier(network, regions, ol.Boxes(promise=promise), head=head)
        detectors = {name: ol.create_detector(name) for name in DETECTORS}
        fitted = fit_guards(
            detectors, classifier, fresh.split(64), held_out.split(64), false_alarm=FALSE_ALARM, class_names=NAMES
        )
        names = fitted.artifact.calibrations
        rows += [[promise, name, *_row(fitted.guard(name), same, odd)] for name in names]
    titles = ["promise", "detector", "ID images flagged", "ID boxes flagged", *(f"{d}: AUROC / unknown" for d in OOD)]
    text = "\n".join(markdown(titles, rows))
    print(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


def _row(guard: ol.Guard, same: Tensor, odd: dict[str, tuple[Tensor, Tensor]]) -> Iterator[str]:
    verdict = _verdict(guard, same)
    own = [flags for part in verdict for flags in part.lists("is_ood")]
    there = [flags for flags in own if len(flags)]
    images = sum(int(part.is_ood.sum()) for part in verdict)
    low, high = interval(images, len(there))
    boxes = float(np.mean([float(flags.double().mean()) for flags in there]))
    yield f"{100 * images / len(there):.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    yield f"{100 * boxes:.1f}"
    for pictures, masks in odd.values():
        found = [row for part in _verdict(guard, pictures) for row in part.boxes()]
        judged = [
            (unknown(torch.tensor(b["box"]), mask), b) for row, mask in zip(found, masks, strict=True) for b in row
        ]
        inside = [b["score"] for odd_one, b in judged if odd_one is False]
        outside = [b for odd_one, b in judged if odd_one]
        share = np.mean([b["is_ood"] for b in outside])
        yield f"{100 * auroc(inside, [b['score'] for b in outside]):.1f} / {100 * share:.1f}"


def _verdict(guard: ol.Guard, images: Tensor) -> list[ol.RowVerdict]:
    found = [guard(part) for part in images.split(64)]
    assert all(isinstance(each, ol.RowVerdict) for each in found)
    return found  # type: ignore[return-value]


if __name__ == "__main__":
    app()
