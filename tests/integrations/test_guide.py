"""The Python of the guide's page on integrations runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import oodline as ol
from oodline.cli import app
from oodline.testing import toy_loader, toy_problem

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "integrations.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def loader(*seeds):
    inputs, labels = zip(*(toy_loader(seed)[0] for seed in seeds), strict=True)
    return DataLoader(TensorDataset(torch.cat(inputs), torch.cat(labels)), batch_size=64)


def module():
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, _):
            pass

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    return Module()


def test_its_commands_parse():
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()
    ]
    assert lines
    for line in lines:
        command, _, _ = app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
        assert command.__name__ == line.split()[1]


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # within Lightning
@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType:UserWarning")  # within MLflow
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    classifier, _ = toy_problem()
    guard = ol.Guard(classifier, ol.KNN(k=3).fit(classifier, loader(1, 2))).calibrate(loader(3, 4))
    names = {
        "classifier": classifier,
        "guard": guard,
        "train_loader": loader(1, 2),
        "val_loader": loader(3, 4),
        "test_loader": loader(5),
        "ood_loader": [torch.full((20, 4), -5.0)],
        "val_images": toy_loader(5)[0][0],
        "ood_images": torch.full((20, 4), -5.0),
        "features": classifier(loader(1, 2, 3).dataset.tensors[0]).features.numpy(),
        "module": module(),
    }
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    mlflow.set_tracking_uri("")
    assert float(names["rates"]["auroc"]) == pytest.approx(names["table"].value("knn"))
    assert "noise" in capsys.readouterr().out
    for made in ("guard.safetensors", "guard.xml", "guard.bin", "my-model/README.md", "knn.csv"):
        assert (tmp_path / made).is_file()
    assert names["same_guard"](names["val_images"]).score.equal(guard(names["val_images"]).score)
