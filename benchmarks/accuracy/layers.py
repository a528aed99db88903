"""What several depths see that the last does not, and what it costs on harmless changes of ID images.

    python -m benchmarks.accuracy.layers [NETWORK ...] [--shared ../shared] [--limit 300] [--json]

AUROC of CIFAR-10 test images against OOD sets, near and far, and against the same test images after a change that
leaves their class as it is (`covariate_shift.py`). There 50 is best: whoever is above it flags images whose class is
known, because they were taken in another way.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.accuracy.as_it_comes import IMAGES
from benchmarks.accuracy.covariate_shift import CHANGES, Change
from cyclopts import App

import oodline as ol
from oodline.cli.options import Json, print_json
from oodline.data import ImageLoader, image_loader, open_images
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.model.zoo import load_model

NETWORKS = ("resnet20_cifar10", "densenet100_cifar10", "convnext_cifar10")
DETECTORS = (
    "mahalanobis",
    "layered-mahalanobis",
    "layered-mahalanobis,pool=mean-std",
    "gram",
    "energy",
    "fuse,detectors=energy+layered-mahalanobis",
    "fuse",
)
NEAR, FAR = ("cifar100/test", "ood/tiny_imagenet"), ("ood/mnist", "ood/svhn", "ood/textures", "ood/scenes")
SHIFTS = ("JPEG, quality 75", "Gaussian blur, 0.5 pixels", "noise, 2 % of the range", "brightness x 0.7")
TRAINING = 2000
"""Images to fit on, about 200 of each class."""

app = App()


@app.default
def main(*names: str, shared: Path = Path("../shared"), limit: int = 300, as_json: Json = False) -> None:
    """Fit on 2,000 CIFAR-10 training images once for each network, then compare means over the sets of each kind.

    Parameters
    ----------
    names
        Networks for CIFAR-10 of `as_it_comes.IMAGES`; the three of `NETWORKS` if omitted.
    shared
        Folder with `data`.
    limit
        Images of each set, at most.
    as_json
        Print one JSON document in place of the table.
    """
    found = {}
    for name in names or NETWORKS:
        found[name] = measure(name, shared / "data", limit)
        if not as_json:
            rows = [[key, *(f"{100 * area:.1f}" for area in areas.values())] for key, areas in found[name].items()]
            print("\n".join(markdown([name, "near", "far", "shifted ID (50 is best)"], rows)), flush=True)
    if as_json:
        print_json({"images": limit, "auroc": found})


def measure(name: str, data: Path, limit: int) -> dict[str, dict[str, float]]:
    """Mean AUROC of each detector near, far, and on shifted ID images."""
    setup = IMAGES[name]
    loaded = load_model(setup.model, data / "checkpoints" / f"{name}.safetensors")
    classifier, preprocessing = ol.Classifier(loaded.model), setup.preprocessing or loaded.preprocessing

    def load(path: str, most: int = limit, change: Change = CHANGES["none"]) -> ImageLoader:
        source = open_images(data / f"{path}.parquet")
        part = ol.data.Subset(source, range(*slice(most).indices(len(source))))
        return image_loader(part, lambda image: preprocessing(change(image.convert("RGB"))))

    detectors = {reference: ol.create_detector(reference) for reference in DETECTORS}
    ol.fit(detectors, classifier, load("cifar10/train", TRAINING))
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
