"""A callback of transformers' `Trainer` that fits, calibrates, evaluates and saves detectors when training ends."""

from __future__ import annotations

from typing import Any

from oodline.errors import missing_extra
from oodline.integrations.training import EndOfTraining

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing_extra("transformers", "transformers", "callbacks of transformers") from error

__all__ = ["OODCallback"]


class OODCallback(EndOfTraining, TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """Fit detectors on the training data when training ends, calibrate them on the evaluation data, and report.

    The rates are put into `state.log_history`, as `ood/SET/DETECTOR/METRIC`, and with `trainer` logged to wherever it
    reports to. Without `trainer`, a training that never evaluates shows no held-out data: pass `val`. With several
    processes the first does it, alone; pass `train` and `val`, loaders of all data.

    Parameters
    ----------
    trainer : transformers.Trainer, optional
        To log by, and for its evaluation data: `trainer.add_callback(OODCallback(trainer=trainer, ood=...))`.
    **options
        Those of `EndOfTraining`: `ood`, `train`, `val`, `test`, `detectors`, `false_alarm`, `groups`, `save`.

    Attributes
    ----------
    guards, table
        After training; see `EndOfTraining`.

    Raises
    ------
    SettingError
        There will be no held-out data; raised before the training.

    Examples
    --------
    >>> from oodline.testing import toy_loader
    >>> callback = OODCallback(ood={"noise": [toy_loader(seed=1)[0][0] * 9]}, save="guard.safetensors")
    >>> callback.false_alarm  # Trainer(..., callbacks=[callback]).train()
    0.05
    """

    def __init__(self, *, trainer: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Find out before the training whether there will be data; called by the trainer."""
        if self.trainer is None and getattr(args, "eval_strategy", "no") == "no":
            self.given("val", None)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Do all of it; called by the trainer."""
        if not state.is_world_process_zero:
            return
        val = given.get("eval_dataloader")
        if val is None and self.val is None and self.trainer is not None:
            val = self.trainer.get_eval_dataloader()
        train, val = self.given("train", given.get("train_dataloader")), self.given("val", val)
        metrics = self.finish(given["model"], train, val)
        if metrics and self.trainer is not None:
            self.trainer.log(metrics)
        elif metrics:
            state.log_history.append({**metrics, "step": state.global_step})
