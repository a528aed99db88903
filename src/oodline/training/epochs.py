"""Train a network by a recipe, epoch by epoch: seeds, learning rate, mixed precision, early stop, and resuming."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterable, Mapping, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodline._util.digests import Digest
from oodline._util.files import write_atomically
from oodline._util.progress import track
from oodline.data.batch import unpack
from oodline.errors import DataError, InputError, LabelError
from oodline.model.classifier import Classifier
from oodline.model.precision import Dtype, computing_in
from oodline.training.batches import class_labels, mix
from oodline.training.forward import Forward
from oodline.training.loss import TrainingLoss
from oodline.training.optimisation import optimiser_for, rate_at
from oodline.training.outlier_maker import OutlierMaker
from oodline.training.recipe import Recipe

DAMAGED = (RuntimeError, ValueError, LookupError, TypeError, AttributeError)
"""What comes of a file that is a state no longer."""


@dataclass
class History:
    """What a training did, epoch by epoch; `print` says it in a sentence.

    Parameters
    ----------
    loss : list of float
        Mean over the batches of each epoch.
    accuracy : list of float
        On held-out ID data before the first epoch and after each, in [0, 1]; empty where there is none.
    seconds : list of float
        Wall time of each epoch, without the accuracy.
    stopped : str
        Why it ended early, in words; empty where it did not.

    Examples
    --------
    >>> print(History([0.9, 0.5], [0.8, 0.9, 0.7], [1.0, 1.0], "after epoch 2 of 5"))
    loss 0.900, accuracy 0.800 to 0.900, 1 epoch kept, 2 s; ended after epoch 2 of 5
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: str = ""

    @property
    def epochs_kept(self) -> int:
        """Epochs whose weights were kept: all, but for the last one where the training ended early."""
        return max(0, len(self.loss) - bool(self.stopped))

    def __str__(self) -> str:
        """A sentence: that no epoch was kept and why, or loss, accuracy and seconds."""
        if not self.epochs_kept:
            if not self.loss:
                return "no epoch."
            return (
                "no epoch kept, these are the weights from before: the first epoch took the accuracy on held-out data "
                f"from {self.accuracy[0]:.3f} to {self.accuracy[-1]:.3f}, a larger loss than allowed."
            )
        kept = self.epochs_kept  # a last one that was not is no result
        losses = f"loss {self.loss[0]:.3f}" + (f" to {self.loss[kept - 1]:.3f}" if kept > 1 else "")
        watched = f", accuracy {self.accuracy[0]:.3f} to {self.accuracy[kept]:.3f}" if self.accuracy else ""
        count = f"{kept} epoch{'s' if kept > 1 else ''}{' kept' if self.stopped else ''}"
        ended = f"; ended {self.stopped}" if self.stopped else ""
        return f"{losses}{watched}, {count}, {sum(self.seconds):.0f} s{ended}"


@dataclass
class Training:
    """One training: a network, its recipe, and all that its course depends on.

    Parameters
    ----------
    model : nn.Module
        With the recipe's head.
    recipe, loss, maker
        The recipe and what it made for this network.
    train : iterable
        Batches of labelled ID samples, read once each epoch.
    epochs, seed, learning_rate, dtype
        As `finetune`.
    held_out : iterable, optional
        Labelled ID samples for the accuracy after each epoch.
    least_accuracy : float
        Once it has been reached, an epoch that ends below it is the last, and the weights before it are restored.
    state : Path, optional
        File that each epoch's end is written to, and from which a training that was killed goes on.
    begun_on : mapping of str to str
        What else its course depends on, such as digests of the data: where it differs, nothing is resumed.
    head, feature_map : str, optional
        As `Forward`.
    """

    model: nn.Module
    recipe: Recipe
    loss: TrainingLoss
    maker: OutlierMaker | None
    train: Iterable[Any]
    epochs: int
    seed: int
    learning_rate: float
    dtype: Dtype = "float32"
    held_out: Iterable[Any] | None = None
    least_accuracy: float = 0.0
    state: Path | None = None
    begun_on: Mapping[str, str] = field(default_factory=dict)
    head: str | None = None
    feature_map: str | None = None

    def run(self, *, progress: bool = False) -> History:
        """Train the network, in place, and leave it in evaluation mode.

        Raises
        ------
        InputError, LabelError
            A batch cannot be trained on.
        DataError
            The state was written by another training, or the loss is no number.
        """
        forward = Forward(self.model, self.head, feature_map=self.feature_map)
        self.loss.to(forward.classifier.device)
        parameters = [p for p in (*self.model.parameters(), *self.loss.parameters()) if p.requires_grad]
        optimiser = optimiser_for(self.recipe, parameters, self.learning_rate)
        scaler = torch.amp.GradScaler(forward.classifier.device.type, enabled=self.dtype == "float16")
        identity = {} if self.state is None else self._identity()
        history = self._resume(identity, optimiser, scaler)
        if self.held_out is not None and not history.accuracy:
            history.accuracy.append(accuracy(self.model, self.held_out))
        good = _copied(self.model)
        with torch.random.fork_rng():
            for epoch in range(len(history.loss), 0 if history.stopped else self.epochs):
                self._epoch(epoch, forward, optimiser, scaler, history, progress)
                if self.held_out is not None:
                    # a head that begins anew has to learn first
                    reached = max(history.accuracy) >= self.least_accuracy
                    history.accuracy.append(now := accuracy(self.model, self.held_out))
                    if reached and now < self.least_accuracy:
                        history.stopped = (
                            f"after epoch {epoch + 1} of {self.epochs} the accuracy was {now:.3f}, below "
                            f"{self.least_accuracy:.3f}; the weights before that epoch were kept"
                        )
                        self.model.load_state_dict(good)
                    good = _copied(self.model)
                self._write(identity, optimiser, scaler, history)
                if history.stopped:
                    break
        self.model.eval()
        return history

    def _epoch(
        self,
        epoch: int,
        forward: Forward,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        history: History,
        progress: bool,
    ) -> None:
        # each epoch has a seed of its own, so that one that is resumed is the one that would have been
        torch.manual_seed((1_000_003 * self.seed + epoch) % 2**63)
        if self.maker is not None:
            self.maker.progress = epoch / self.epochs
            self.maker.restart()
        rate = rate_at(self.recipe.schedule, self.learning_rate)
        self.model.train()
        began, total, batches = time.perf_counter(), 0.0, 0
        task = f"{self.recipe.name}, epoch {epoch + 1} of {self.epochs}"
        length = len(self.train) if isinstance(self.train, Sized) else None
        for batch in track(self.train, task, self.train, shown=progress):
            done = epoch if self.recipe.schedule == "steps" else epoch + (batches / length if length else 0)
            for group in optimiser.param_groups:
                group["lr"] = rate(done / self.epochs)
            value = self.step(batch, forward, optimiser, scaler)
            total, batches = total + value, batches + 1
        if not batches:
            raise InputError("the training loader yielded no batch. Check that it is not a generator.")
        history.loss.append(total / batches)
        history.seconds.append(time.perf_counter() - began)

    def step(
        self,
        batch: Any,
        forward: Forward,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> float:
        """One step of the optimiser; returns the loss before it."""
        inputs, labels, _ = unpack(batch, 0)
        if labels is None:
            raise LabelError("a batch to train on must have labels, one class per sample.")
        if self.maker is not None:
            if not isinstance(inputs, Tensor):
                raise InputError("outliers can be mixed with tensors alone, such as images; this batch is a mapping.")
            outliers = self.maker(forward, inputs, labels)
            inputs, labels = mix(inputs.to(outliers.device), labels.to(outliers.device), outliers)
        with computing_in(self.dtype, forward.classifier.device):
            activations = forward(inputs, self.loss.needs)
        value = self.loss(activations, labels)
        number = float(value.detach())
        if not math.isfinite(number):
            rate = f"{self.learning_rate:g}{'' if self.dtype == 'float32' else ', or compute in float32'}"
            raise DataError(f"the loss of {self.recipe.name} became {number}. Lower the learning rate, {rate}.")
        optimiser.zero_grad()
        if scaler is None:
            value.backward()
            optimiser.step()
        else:
            scaler.scale(value).backward()
            scaler.step(optimiser)
            scaler.update()
        return number

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.name,
            "settings": repr(self.recipe.settings),
            "loss": _described(self.loss),
            "outliers": _described(self.maker),
            "optimiser": self.recipe.optimiser,
            "nesterov": self.recipe.nesterov,
            "weight decay": self.recipe.weight_decay,
            "schedule": self.recipe.schedule,
            "epochs": self.epochs,
            "seed": self.seed,
            "learning rate": self.learning_rate,
            "dtype": self.dtype,
            "weights": _digest(self.model.state_dict(), self.loss.state_dict()),
            **self.begun_on,
        }

    def _write(
        self,
        identity: Mapping[str, Any],
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        history: History,
    ) -> None:
        if self.state is None:
            return
        document = {
            "identity": dict(identity),
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimiser": optimiser.state_dict(),
            "scaler": scaler.state_dict(),
            "history": asdict(history),
        }
        write_atomically(self.state, lambda file: torch.save(document, file))

    def _resume(
        self, identity: Mapping[str, Any], optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> History:
        if self.state is None or not self.state.exists():
            return History()
        try:
            document: Mapping[str, Any] = torch.load(self.state, map_location="cpu", weights_only=True)  # runs no code
            theirs = document["identity"]
            names = sorted(n for n in {*theirs, *identity} if theirs.get(n) != identity.get(n))
        except (*DAMAGED, EOFError, pickle.PickleError) as error:
            raise self._damaged(error) from error
        if names:
            there = ", ".join(f"{name} {_shown(theirs.get(name))}, here {_shown(identity.get(name))}" for name in names)
            raise DataError(
                f"{self.state} is of another training: {there}. Remove it to begin anew, or name another output."
            )
        try:
            self.model.load_state_dict(document["model"])
            self.loss.load_state_dict(document["loss"])
            optimiser.load_state_dict(document["optimiser"])
            scaler.load_state_dict(document["scaler"])
            return History(**document["history"])
        except DAMAGED as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        why = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        return DataError(f"{self.state} is damaged: {type(error).__name__}: {why}. Remove it to begin anew.")


def accuracy(model: nn.Module, loader: Iterable[Any]) -> float:
    """Share of the labelled samples that are classified correctly, in [0, 1].

    Raises
    ------
    LabelError
        A batch has no labels, or others than one class per sample.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> accuracy(classifier.model, loader) > 0.9
    True
    """
    right = total = 0
    for activations, labels in Classifier(model).stream(loader):
        known = class_labels(labels, len(activations), activations.logits.shape[1], "held-out labels")
        right += int((activations.predicted.cpu() == known).sum())
        total += len(activations)
    return right / total


def _digest(*states: Mapping[str, Tensor]) -> str:
    whole = Digest()
    for name, value in ((name, value) for state in states for name, value in state.items()):
        whole.add(f"{name} {value.dtype} {tuple(value.shape)} ", value)
    return whole.hex()


def _described(part: object) -> str:
    """Its class and its settings of plain values."""
    settings = vars(part).items() if hasattr(part, "__dict__") else ()
    plain = {k: v for k, v in settings if not k.startswith("_") and isinstance(v, int | float | str | tuple)}
    plain.pop("progress", None)  # changes while it is used
    return f"{type(part).__name__} {sorted(plain.items())}"


def _shown(value: object) -> str:
    return str(value) if len(str(value)) < 64 else f"{str(value)[:12]}..."


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
