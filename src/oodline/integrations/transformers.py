"""A callback of transformers' `Trainer` that fits, calibrates, evaluates and saves detectors when training ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oodline.errors import SettingError, missing_extra
from oodline.integrations.training import EndOfTraining

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing_extra("transformers", "transformers", "callbacks of transformers") from error

__all__ = ["OODCallback"]


class OODCallback(EndOfTraining, TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
    """Fit detectors on the training data when training ends, calibrate them on the evaluation data, and report.

    The rates are put into `state.log_history`, as `ood/SET/DETECTOR/METRIC`, and with `trainer` logged to wherever it
    reports to. Without `trainer`, a training that never evaluates shows no held-out data: pass `val`; and so where
    `eval_dataset` is several by name. With several processes the first does it, alone and on all of the data, so
    `train` and `val` must then be given.

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
        There will be no held-out data, or too little, or several sets of it; or several processes and no loaders of
        all data. Raised before the training; without `trainer`, several sets at the first evaluation.
    DataError
        The guard's file cannot be written there.

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
        self._evaluated: set[str] | None = None  # by what name, during a training

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Find out before the training whether there will be data and a place to write to; called by the trainer."""
        self._evaluated = set()
        self.check_shares(args.world_size)
        several = getattr(self.trainer, "eval_dataset", None)
        if isinstance(several, Mapping):
            self._check_one(list(several))
        elif self.trainer is None and getattr(args, "eval_strategy", "no") == "no":
            self.given("val", None)
        self.check_start(self.val)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Find out at the first evaluation whether there are several sets; called by the trainer."""
        if self._evaluated is not None:
            end = "_runtime"  # of eval_runtime, or of eval_NAME_runtime where a set has a name
            self._evaluated |= {key.removesuffix(end) for key in given.get("metrics") or {} if key.endswith(end)}
            if len(self._evaluated) > 1:
                self._check_one(sorted(self._evaluated))

    def _check_one(self, names: list[str]) -> None:
        if self.val is None:
            raise SettingError(
                f"`val` must be one loader; the training has {len(names)} by name: {', '.join(names)}. Pass val=..."
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Do all of it; called by the trainer."""
        self._evaluated = None
        if not state.is_world_process_zero:
            return
        val = given.get("eval_dataloader")
        if val is None and self.val is None and self.trainer is not None:
            val = self.trainer.get_eval_dataloader()
        train, val = self.given("train", given.get("train_dataloader")), self.given("val", val)

        def log(metrics: dict[str, float]) -> None:
            if self.trainer is not None:
                self.trainer.log(metrics)
            else:
                state.log_history.append({**metrics, "step": state.global_step})

        self.finish(given["model"], train, val, log)
