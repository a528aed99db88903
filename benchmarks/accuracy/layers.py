"""What several depths see that the last does not, and what it costs on harmless changes of ID images.

    python -m benchmarks.accuracy.layers [NETWORK ...] [--shared ../shared] [--limit 500] [--json]

AUROC of CIFAR-10 test images against OOD sets, near and far, and against the same test images after a change that
leaves their class as it is (`covariate_shift.py`). There 50 is best: whoever is above it flags images whose class is
known, because they were taken in another way.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks._common import load_cifar
from benchmarks.accuracy.covariate_shift import CHANGES, Change
from cyclopts import App

import oodline as ol
from oodline.cli.options import Json, print_json
from oodline.data import ImageLoader, image_loader, open_images
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown

DETECTORS = ("mahalanobis", "layered-mahalanobis", "layered-mahalanobis,pool=mean-std", "gram", "energy")
NEAR, FAR = ("cifar100/test", "ood/tiny_imagenet"), ("ood/mnist", "ood/svhn", "ood/textures", "ood/scenes")
SHIFTS = ("JPEG, quality 75", "Gaussian blur, 0.5 pixels", "noise, 2 % of the range", "brightness x 0.7")

app = App()


@app.default
def main(*names: str, shared: Path = Path("../shared"), limit: int = 500, as_json: Json = False) -> None:
    """Fit on the CIFAR-10 training sample once for each network, then compare means over the sets of each kind.

    Parameters
    ----------
    names
        densenet100, resnet20; the second if omitted.
    shared
        Folder with `data`.
    limit
        Images of each set, at most.
    as_json
        Print one JSON document in place of the table.
    """
    found = {name: measure(name, shared / "data", limit) for name in names or ("resnet20",)}
    if as_json:
        print_json({"images": limit, "auroc": found})
        return
    rows = [
        [name, label, *(f"{100 * value:.1f}" for value in areas.values())]
        for name, each in found.items()
        for label, areas in each.items()
    ]
    print("\n".join(markdown(["network", "detector", "near", "far", "shifted ID (50 is best)"], rows)))


def measure(name: str, data: Path, limit: int) -> dict[str, dict[str, float]]:
    """Mean AUROC of each detector near, far, and on shifted ID images."""
    loaded = load_cifar(data / "checkpoints", name)
    classifier = ol.Classifier(loaded.model)

    def load(path: str, most: int | None = limit, change: Change = CHANGES["none"]) -> ImageLoader:
        source = open_images(data / f"{path}.parquet")
        part = ol.data.Subset(source, range(*slice(most).indices(len(source))))
        return image_loader(part, lambda image: loaded.preprocessing(change(image.convert("RGB"))))

    detectors = {reference: ol.create_detector(reference) for reference in DETECTORS}
    ol.fit(detectors, classifier, load("cifar10/train", None))
    known = ol.score(detectors, classifier, load("cifar10/test"))

    def mean(loaders: list[ImageLoader]) -> dict[str, float]:
        scored = [ol.score(detectors, classifier, loader) for loader in loaders]
        return {key: sum(auroc(known[key], other[key]) for other in scored) / len(scored) for key in detectors}

    kinds = {
        "near": mean([load(path) for path in NEAR]),
        "far": mean([load(path) for path in FAR]),
        "shifted": mean([load("cifar10/test", change=CHANGES[change]) for change in SHIFTS]),
    }
    return {key: {kind: areas[key] for kind, areas in kinds.items()} for key in detectors}


if __name__ == "__main__":
    app()
