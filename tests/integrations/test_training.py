"""The callbacks of Lightning and transformers leave a calibrated guard, a table and logged rates behind."""

from __future__ import annotations

import csv
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import oodline as ol
from oodline.errors import DataError, SettingError
from oodline.testing import toy_loader, toy_problem

OOD = {"near": [torch.full((20, 4), 1.5)], "far": [torch.full((20, 4), -9.0)]}
SET, RATE = "far", "ood/far/knn/auroc"


def loader(*seeds):
    inputs, labels = zip(*(toy_loader(seed)[0] for seed in seeds), strict=True)
    return DataLoader(TensorDataset(torch.cat(inputs), torch.cat(labels)), batch_size=32)


def check(callback, model, path):
    """The guard was fitted on this model, promises its rate, and is in the file."""
    guard = callback.guards.guard()
    assert guard.calibration.false_alarm == 0.1
    classifier = ol.Classifier(model)
    x = toy_loader(9)[0][0]
    torch.testing.assert_close(ol.Guard.load(path, classifier)(x).score, guard(x).score)
    expected = ol.evaluate(ol.KNN(k=3).fit(classifier, loader(1, 2)), classifier, loader(5), OOD)
    assert callback.table.value("knn", "auroc", SET) == expected.value("knn", "auroc", SET)


def options(path):
    return {"ood": OOD, "test": loader(5), "detectors": [ol.KNN(k=3), ol.Energy()], "false_alarm": 0.1, "save": path}


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # within Lightning
def test_lightning(tmp_path):
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger

    from oodline.integrations.lightning import OODCallback

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
            return torch.optim.Adam(self.parameters(), lr=0.02)

    callback = OODCallback(network="net", **options(tmp_path / "guard.safetensors"))
    module, logger = Module(), CSVLogger(tmp_path, name="", version="")
    Trainer(
        max_epochs=3, callbacks=[callback], logger=logger, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    ).fit(module, loader(1, 2), loader(3, 4))  # fmt: skip
    check(callback, module.net, tmp_path / "guard.safetensors")
    with (tmp_path / "metrics.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if row[RATE]]
    assert float(row[RATE]) == callback.table.value("knn", "auroc", SET)
    assert float(row["ood/mean/energy/fpr95_ood_positive"]) == callback.table.value("energy", "fpr95_ood_positive")


def test_transformers(tmp_path):
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
    from transformers.trainer_callback import CallbackHandler

    from oodline.integrations.transformers import OODCallback

    logged = []

    class Log(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            logged.append(logs)

    # the trainer's own log and events; making a whole one asks for the package accelerate
    classifier, _ = toy_problem()
    trainer = object.__new__(Trainer)
    trainer.args = SimpleNamespace(include_num_input_tokens_seen="no")
    trainer.state, trainer.control = TrainerState(global_step=7), TrainerControl()
    callback = OODCallback(trainer=trainer, **options(tmp_path / "guard.safetensors"))
    trainer.callback_handler = CallbackHandler([callback, Log()], classifier.model, None, None, None)
    trainer.callback_handler.train_dataloader = loader(1, 2)
    trainer.callback_handler.eval_dataloader = loader(3, 4)
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    check(callback, classifier.model, tmp_path / "guard.safetensors")
    [rates] = logged
    assert rates[RATE] == callback.table.value("knn", "auroc", SET)
    assert trainer.state.log_history == [{**rates, "step": 7}]


def test_half_of_the_validation_data_is_for_the_table_and_mappings_are_batches():
    from transformers import TrainerState

    from oodline.integrations.transformers import OODCallback

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = toy_problem()[0].model

        def forward(self, pixel_values):
            return {"logits": self.net(pixel_values)}

    def batches(*seeds):
        return [{"pixel_values": x, "labels": y} for x, y in loader(*seeds)]

    callback, state = OODCallback(ood={"far": [{"pixel_values": OOD["far"][0]}]}), TrainerState()
    given = {"model": Net(), "train_dataloader": batches(1, 2), "eval_dataloader": batches(3, 4, 5, 6)}
    callback.on_train_end(None, state, None, **given)
    assert callback.guards.guard().detector.name == "fuse"
    n_id = callback.table.cells["fuse"]["far"].n_id
    assert 90 < n_id < 150
    assert len(callback.guards.guard().calibration.scores) <= 240 - n_id
    assert state.log_history[0]["ood/far/fuse/auroc"] == callback.table.value("fuse")
    callback = OODCallback(detectors="energy")
    callback.on_train_end(None, state, None, **given)
    assert callback.table is None
    assert len(callback.guards.guard().calibration.scores) == 240
    with pytest.raises(SettingError, match="`val` must be a loader, since the training has none"):
        callback.on_train_end(None, state, None, **{**given, "eval_dataloader": None})


def test_a_guard_that_cannot_be_saved_leaves_the_table_and_the_log(tmp_path):
    from transformers import TrainerState

    from oodline.integrations.transformers import OODCallback

    callback, state = OODCallback(**options(tmp_path / "none" / "guard.safetensors")), TrainerState()
    given = {"model": toy_problem()[0].model, "train_dataloader": loader(1, 2), "eval_dataloader": loader(3, 4)}
    with pytest.raises(DataError, match="could not write"):
        callback.on_train_end(None, state, None, **given)
    assert state.log_history[0][RATE] == callback.table.value("knn", "auroc", SET)


def test_what_is_missing_is_said_before_the_training():
    from oodline.integrations.lightning import OODCallback
    from oodline.integrations.transformers import OODCallback as Other

    trainer = SimpleNamespace(train_dataloader=loader(1), val_dataloaders=None, enable_validation=True)
    module = nn.Sequential(nn.Linear(4, 3))
    OODCallback().on_train_start(trainer, module)  # it has some, which are not made yet
    trainer.enable_validation = False
    with pytest.raises(SettingError, match="`val` must be a loader, since the training has none"):
        OODCallback().on_train_start(trainer, module)
    trainer.val_dataloaders = [loader(1), loader(2)]
    with pytest.raises(SettingError, match="`val` must be one loader; the training has 2"):
        OODCallback().on_train_start(trainer, module)
    trainer.val_dataloaders = trainer.val_dataloaders[:1]
    OODCallback().on_train_start(trainer, module)
    for given, sentence in [
        ({"false_alarm": 0.01}, "60 held-out samples are too few for a false-alarm rate of 0.01"),
        ({"false_alarm": 0.02, "ood": OOD}, "held-out samples are too few"),  # half of the 60
        ({"network": "nope"}, "`network` must name a module of Sequential; got 'nope'. Its modules: 0"),
    ]:
        with pytest.raises(SettingError, match=sentence):
            OODCallback(**given).on_train_start(trainer, module)
    with pytest.raises(SettingError, match=r"since ModuleDict has no `forward`; got None\. Modules of ModuleDict: net"):
        OODCallback().on_train_start(trainer, nn.ModuleDict({"net": module}))
    with pytest.raises(DataError, match="there is no folder no-such-folder"):
        OODCallback(save="no-such-folder/guard.safetensors").on_train_start(trainer, module)
    with pytest.raises(SettingError, match="a group names 'fra', which is not an OOD set: near, far"):
        OODCallback(ood=OOD, groups={"far": ["fra"]})
    one = {"world_size": 1}
    with pytest.raises(SettingError, match="`val` must be a loader, since the training has none"):
        Other().on_train_begin(SimpleNamespace(eval_strategy="no", **one), None, None)
    Other(val=loader(3)).on_train_begin(SimpleNamespace(eval_strategy="no", **one), None, None)
    with pytest.raises(SettingError, match="60 held-out samples are too few"):
        Other(val=loader(3), false_alarm=0.01).on_train_begin(SimpleNamespace(eval_strategy="no", **one), None, None)


def test_transformers_refuses_several_sets_of_evaluation_data():
    from oodline.integrations.transformers import OODCallback

    args, two = SimpleNamespace(eval_strategy="epoch", world_size=1), SimpleNamespace(eval_dataset={"a": [], "b": []})
    sentence = "`val` must be one loader; the training has 2 by name: "
    with pytest.raises(SettingError, match=f"{sentence}a, b"):
        OODCallback(trainer=two).on_train_begin(args, None, None)
    OODCallback(trainer=two, val=loader(1)).on_train_begin(args, None, None)
    callback = OODCallback()
    callback.on_evaluate(args, None, None, metrics={"test_runtime": 1.0})  # before the training
    callback.on_train_begin(args, None, None)
    callback.on_evaluate(args, None, None, metrics={"eval_a_runtime": 1.0, "eval_a_loss": 1.0})
    with pytest.raises(SettingError, match=f"{sentence}eval_a, eval_b"):
        callback.on_evaluate(args, None, None, metrics={"eval_b_runtime": 1.0})


def test_shares_of_the_data_are_refused_before_training():
    from oodline.integrations.lightning import OODCallback

    with pytest.raises(SettingError, match="`train` and `val` must be loaders of all data where 2 processes train"):
        OODCallback(val=loader(1)).setup(SimpleNamespace(world_size=2), None, "fit")
    from oodline.integrations.transformers import OODCallback as Other

    with pytest.raises(SettingError, match="`train` and `val` must be loaders of all data where 2 processes train"):
        Other(train=loader(1)).on_train_begin(SimpleNamespace(world_size=2), None, None)


@pytest.mark.parametrize(("package", "module"), [("lightning.pytorch", "lightning"), ("transformers", "transformers")])
def test_a_package_that_is_not_installed(monkeypatch, package, module):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"oodline.integrations.{module}", raising=False)
    with pytest.raises(ImportError, match=rf"oodline\[{module}\]"):
        __import__(f"oodline.integrations.{module}")
