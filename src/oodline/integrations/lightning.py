"""A callback of Lightning that fits, calibrates, evaluates and saves detectors when training ends."""

from __future__ import annotations

from typing import Any

from torch import nn

from oodline.errors import SettingError, missing_extra
from oodline.integrations.training import EndOfTraining

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise missing_extra("lightning", "lightning", "callbacks of Lightning") from error

__all__ = ["OODCallback"]


class OODCallback(EndOfTraining, Callback):  # type: ignore[misc]  # mypy does not follow Lightning
    """Fit detectors on the training data when training ends, calibrate them on the validation data, and report.

    The rates go to every logger of the trainer, as `ood/SET/DETECTOR/METRIC`. With several processes, the first does
    it, alone and on all of the data, so `train` and `val` must then be given. Training data is read as the training
    reads it, augmented where it augments; pass `train` for another.

    Parameters
    ----------
    network : str, optional
        Attribute of the LightningModule that holds the classifier; the module itself if omitted, whose `forward` must
        then return logits.
    **options
        Those of `EndOfTraining`: `ood`, `train`, `val`, `test`, `detectors`, `false_alarm`, `groups`, `save`.

    Attributes
    ----------
    guards, table
        After training; see `EndOfTraining`.

    Raises
    ------
    SettingError
        There is no validation data and no `val`, or too little; several processes and no loaders of all data; or no
        classifier by the name of `network`. Raised before the training, where it is known by then.
    DataError
        The guard's file cannot be written there.

    Examples
    --------
    >>> from oodline.testing import toy_loader
    >>> callback = OODCallback(ood={"noise": [toy_loader(seed=1)[0][0] * 9]}, save="guard.safetensors")
    >>> callback.false_alarm  # Trainer(callbacks=[callback]).fit(module, train_loader, val_loader)
    0.05
    """

    def __init__(self, *, network: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.network = network

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse shares of the data before the training rather than after it; called by the trainer."""
        self.check_shares(trainer.world_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out before the training whether there are a classifier, data and a place to write to; called by it."""
        self._classifier(pl_module)
        val = self.val
        if trainer.val_dataloaders is not None or not trainer.enable_validation:  # else they are made at an epoch's end
            _, val = self._loaders(trainer)
        self.check_start(val)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do all of it; called by the trainer."""
        if trainer.is_global_zero:

            def log(metrics: dict[str, float]) -> None:
                for logger in trainer.loggers:
                    logger.log_metrics(metrics, step=trainer.global_step)

            self.finish(self._classifier(pl_module), *self._loaders(trainer), log)
        trainer.strategy.barrier("oodline")

    def _classifier(self, module: nn.Module) -> nn.Module:
        names = ", ".join(name for name, _ in module.named_children()) or "none"
        try:
            found = module if self.network is None else module.get_submodule(self.network)
        except AttributeError as error:
            raise SettingError(
                f"`network` must name a module of {type(module).__name__}; got {self.network!r}. Its modules: {names}."
            ) from error
        if type(found).forward in (nn.Module.forward, LightningModule.forward) and "forward" not in vars(found):
            raise SettingError(
                f"`network` must name the module that returns logits, since {type(found).__name__} has no `forward`; "
                f"got {self.network!r}. Modules of {type(module).__name__}: {names}."
            )
        return found

    def _loaders(self, trainer: Trainer) -> tuple[Any, Any]:
        return self.given("train", trainer.train_dataloader), self.given("val", trainer.val_dataloaders)
