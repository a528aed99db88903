"""The loops of docs/guide/training.md run as they stand; those of Lightning and transformers train a toy network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import oodline as ol
from oodline.testing import toy_loader

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "training.md"


@pytest.fixture(scope="module")
def page():
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    return names


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def test_the_loop_is_short_and_what_it_trained_is_a_classifier(page):
    [loop] = [b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "for epoch" in b]
    assert sum(bool(line.strip()) and not line.startswith(("import", "from")) for line in loop.splitlines()) <= 12
    changed = ol.Classifier(page["changed"])
    assert changed(toy_loader(1)[0][0]).head.name == "2.linear"
    assert page["found"].counts()["outliers"] >= 20


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # within Lightning
def test_lightning(page):
    from lightning.pytorch import Trainer

    model, loss = network(), ol.training.FeatureNormAmplification(num_features=16, without_outliers="skip")
    module, before = page["Module"](model, loss), [p.clone() for p in loss.parameters()]
    data = DataLoader(TensorDataset(*toy_loader(1)[0]), batch_size=20)
    Trainer(
        max_epochs=8, logger=False, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, data)  # fmt: skip
    assert all(not torch.equal(p, q) for p, q in zip(loss.parameters(), before, strict=True))
    images, labels = toy_loader(2)[0]
    assert float((ol.Classifier(model)(images).predicted == labels).double().mean()) > 0.8


def test_transformers(page, tmp_path):
    from transformers import TrainingArguments

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return {"logits": self.net(x)}

    inputs, labels = toy_loader(1)[0]
    rows = [{"x": x, "labels": int(y)} for x, y in zip(inputs, labels, strict=True)]
    options = TrainingArguments(
        str(tmp_path), num_train_epochs=8, per_device_train_batch_size=20, learning_rate=0.02, report_to=[],
        remove_unused_columns=False, save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    model = Named()
    page["OODTrainer"](model, options, train_dataset=rows, loss=ol.training.LogitNorm()).train()
    images, labels = toy_loader(2)[0]
    assert float((ol.Classifier(model)(images).predicted == labels).double().mean()) > 0.8
