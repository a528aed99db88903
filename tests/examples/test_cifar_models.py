"""The CIFAR networks of the examples are those of the checkpoints."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import oodline as ol
from oodline.data import image_loader, open_images
from oodline.errors import ModelError
from oodline.model.zoo import load_model

FILE = Path(__file__).parents[2] / "examples" / "cifar_models.py"


@pytest.fixture(autouse=True)
def _one_thread():
    # the networks have hundreds of small layers, at each of which threads wait for the slower one
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("factory", "head", "width", "parameters"),
    [("densenet100", "fc", 342, 769_162), ("resnet20", "linear", 64, 269_722)],
)
def test_the_networks_have_the_sizes_that_the_papers_give(factory, head, width, parameters):
    loaded = load_model(f"python:{FILE}:{factory}")
    assert sum(p.numel() for p in loaded.model.parameters()) == parameters
    classifier = ol.Classifier(loaded.model)
    assert (classifier.head_name, classifier.head.num_features) == (head, width)
    activations = classifier(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(activations.head(activations.features), activations.logits)
    assert load_model(f"python:{FILE}:{factory},num_classes=100").model.get_submodule(head).out_features == 100
    assert (loaded.preprocessing.resize, loaded.preprocessing.crop) == (32, 32)


@pytest.mark.real
@pytest.mark.parametrize(
    ("factory", "checkpoint", "accuracy"),
    [("densenet100", "densenet100_cifar10", 94.5), ("resnet20", "resnet20_cifar10", 91.8)],
)
def test_a_checkpoint_loads_strictly_and_is_as_accurate_as_stated(shared, factory, checkpoint, accuracy):
    weights = shared / "data" / "checkpoints" / f"{checkpoint}.safetensors"
    loaded = load_model(f"python:{FILE}:{factory}", weights)
    stored = load_file(weights)
    counters = {key for key in loaded.model.state_dict() if key.endswith("num_batches_tracked")}
    assert stored.keys() | counters == loaded.model.state_dict().keys()
    source = open_images(shared / "data" / "cifar10" / "test.parquet")
    loader = image_loader(source, loaded.preprocessing, batch_size=25, limit=200)
    correct = [(a.logits.argmax(1) == labels) for a, labels in ol.Classifier(loaded.model).stream(loader)]
    assert abs(torch.cat(correct).float().mean() * 100 - accuracy) < 3


@pytest.mark.real
def test_the_checkpoint_of_another_network_is_refused(shared):
    weights = shared / "data" / "checkpoints" / "densenet100_cifar100.safetensors"
    with pytest.raises(ModelError, match=r"of another shape \(fc.* file \(100, 342\), model \(10, 342\)"):
        load_model(f"python:{FILE}:densenet100", weights)
    assert load_model(f"python:{FILE}:densenet100,num_classes=100", weights).model.fc.out_features == 100
