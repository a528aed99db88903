"""Calibrating on the data that a detector was fitted on is noticed, and on other data it is not."""

import warnings
from pathlib import Path

import pytest
import torch

import oodline as ol
from oodline.data import image_loader, open_images
from oodline.model.zoo import load_model
from oodline.scoring.seen_data import SeenDataWarning
from oodline.testing import toy_loader, toy_problem

EXAMPLES = Path(__file__).parents[2] / "examples" / "cifar_models.py"


@pytest.mark.parametrize("detector", [ol.LINe(), ol.KNN(k=5), ol.ASHS(scorer=ol.Mahalanobis())], ids=lambda d: d.name)
def test_the_training_data_is_noticed_in_any_order_and_batch_and_after_a_file(detector, tmp_path):
    classifier, [(images, labels)] = toy_problem()
    guard = ol.Guard(classifier, detector.fit(classifier, [(images, labels)]))
    path = guard.save(tmp_path / "guard.safetensors")
    shuffled = images[torch.randperm(60)].split(7)
    for one in (guard, ol.Guard.load(path, classifier)):
        with pytest.warns(SeenDataWarning, match=r"of 60 samples that can be compared, 60 are among those that"):
            one.calibrate(shuffled)
        one.calibrate(toy_loader(seed=1))  # any warning is an error here


@pytest.mark.parametrize(("known", "warned"), [(0, False), (3, False), (12, True), (60, True)])
def test_a_tenth_of_known_samples_is_too_much(known, warned):
    classifier, loader = toy_problem()
    guard = ol.Guard(classifier, ol.LINe().fit(classifier, loader))
    mixed = torch.cat([loader[0][0][:known], toy_loader(seed=1)[0][0][known:]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        guard.calibrate([mixed])
    assert [w.category for w in caught] == [SeenDataWarning] * warned


def test_a_detector_that_was_not_fitted_knows_nothing():
    classifier, loader = toy_problem()
    ol.Guard(classifier, ol.Energy()).calibrate(loader)


@pytest.mark.real
def test_real_training_images_are_noticed_and_test_images_are_not(shared):
    loaded = load_model(f"python:{EXAMPLES}:resnet20", shared / "data" / "checkpoints" / "resnet20_cifar10.safetensors")
    classifier = ol.Classifier(loaded.model)

    def images(part, batch_size):
        source = open_images(shared / "data" / "cifar10" / f"{part}.parquet")
        return image_loader(source, loaded.preprocessing, limit=100, batch_size=batch_size)

    guard = ol.Guard(classifier, ol.KNN().fit(classifier, images("train", 50)))
    with pytest.warns(SeenDataWarning, match="looks like the fitting data"):
        guard.calibrate(images("train", 64))
    guard.calibrate(images("test", 64))
