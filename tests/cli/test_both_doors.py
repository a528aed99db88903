"""What `oodline fit` writes and what the same words in Python write are equal, tensor by tensor."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import oodline as ol
from oodline.cli import main
from oodline.data import image_loader, open_images
from oodline.errors import OodlineError

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    head = nn.Linear(16, 3)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    model.preprocessing = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
    return model
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A model, 60 training images of three colours, and 120 held-out ones."""
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("held_out", 40)):
        for label, name in enumerate(("blue", "green", "red")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 60, (10, 10, 3))
                pixels[..., label] += 150
                Image.fromarray(pixels.astype("uint8")).save(tmp_path / part / name / f"{i:02}.png")
    (tmp_path / "models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore::oodline.errors.AssumptionWarning")
@pytest.mark.parametrize("by", ["all", "predicted"])
def test_the_default_is_the_same_from_python_and_from_the_command_line(place, by):
    with pytest.raises(SystemExit) as stop:
        words = ["fit", "--model", "python:models.py:build", "--data", "train", "--calibrate", "held_out", "--by", by]
        main([*words, "-o", "command.safetensors"])
    assert stop.value.code in (0, None)

    loaded = ol.load_model("python:models.py:build")
    train, held_out = (image_loader(open_images(part), loaded.preprocessing) for part in ("train", "held_out"))
    classifier = ol.Classifier(loaded.model)
    guard = ol.Guard(classifier, ol.default_detector(classifier).fit(classifier, train))
    guard.calibrate(held_out, by=by).save("python.safetensors")

    command, python = load_file("command.safetensors"), load_file("python.safetensors")
    assert command.keys() == python.keys()
    assert any(name.startswith("calibration/") for name in command)
    for name, value in command.items():
        torch.testing.assert_close(python[name], value, rtol=0, atol=0, msg=name)


def test_an_error_is_the_same_sentence_at_both_doors(place, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model", "python:models.py:build", "--data", "train", "-d", "knn,k=0", "-o", "a.safetensors"])
    said = capsys.readouterr().err.strip().removeprefix("error: ")
    with pytest.raises(OodlineError) as error:
        ol.KNN(k=0)
    assert said == str(error.value)
