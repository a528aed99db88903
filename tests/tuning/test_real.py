"""`tune` on a classifier that its criterion was not chosen on, with real near and far OOD sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodline import Classifier, evaluate, fit
from oodline.data import Subset, image_loader, open_images
from oodline.detectors.catalog import create_detector
from oodline.detectors.line import LINe
from oodline.model.zoo import load_model
from oodline.tuning.search import tune

EXAMPLES = Path(__file__).parents[2] / "examples" / "cifar_models.py"


@pytest.mark.long
@pytest.mark.real
def test_line_on_resnet20_is_within_a_point_of_its_best_and_far_above_the_presets(shared):
    data = shared / "data"
    loaded = load_model(f"python:{EXAMPLES}:resnet20", data / "checkpoints" / "resnet20_cifar10.safetensors")
    classifier = Classifier(loaded.model)

    def part(name: str, start: int, stop: int):
        return image_loader(Subset(open_images(data / f"{name}.parquet"), range(start, stop)), loaded.preprocessing)

    train = part("cifar10/train", 0, 2000)
    tuned = tune(LINe(), classifier, train, part("cifar10/test", 4500, 5000))
    grid = {str(c.settings): LINe(**c.settings) for c in tuned.candidates}
    presets = {name: LINe.preset(name) for name in LINe.presets}
    ood = {name: part(name, 0, 400) for name in ("cifar100/test", "ood/tiny_imagenet", "ood/svhn", "ood/textures")}
    every = {**grid, **presets, "tuned": create_detector(tuned.reference)}
    fit(list(every.values()), classifier, train)
    table = evaluate(every, classifier, part("cifar10/test", 0, 1000), ood)
    reached = {name: table.mean(name, "auroc") for name in every}
    assert reached["tuned"] >= max(reached[name] for name in grid) - 0.01
    assert reached["tuned"] >= max(reached[name] for name in presets) + 0.03
