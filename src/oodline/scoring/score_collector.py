"""Collect the scores of a pass in memory, one column per detector: 8 bytes per sample and detector."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.digests import Digest
from oodline.data.batch import UNLABELLED
from oodline.detectors.base import Detector
from oodline.errors import InputError, OodlineError
from oodline.model.activations import Activations
from oodline.statistics.content_sketch import content_of


def score_batch(
    detectors: Mapping[str, Detector], activations: Activations, seconds: dict[str, float] | None = None
) -> dict[str, Float[Tensor, " n"]]:
    """Scores of the inputs of one batch by each detector (N,), float64, on the CPU; adds its wall time to `seconds`.

    An input with several rows is judged by them; infinite where it has none.

    Raises
    ------
    InputError
        A score is NaN or infinite; the message names the detector and the sample.
    """
    scores = {}
    for name, detector in detectors.items():
        started = perf_counter()
        values = detector.score_rows(activations).detach().to("cpu", torch.float64)
        if seconds is not None:
            seconds[name] += perf_counter() - started
        if not bool(torch.isfinite(values).all()):
            bad = torch.nonzero(~torch.isfinite(values)).flatten()
            raise InputError(
                f"'{name}' gave NaN or infinite scores for {len(bad)} of {len(values)} samples of a batch (first: "
                f"sample {int(activations.samples[activations.group[bad[0]]])} of the data set)."
            )
        scores[name] = activations.judged(values)
    return scores


def fingerprint(detectors: Mapping[str, Detector]) -> str:
    """SHA-256 of names, settings and fitted state: equal ones give equal scores."""
    whole = Digest()
    for name, detector in detectors.items():
        whole.add(f"{name} {detector}")
        for key, value in detector.state_dict().items():
            whole.add(f"{key} {value.dtype} {tuple(value.shape)}", value)
    return whole.hex()


class ScoreCollector:
    """The collector behind `score_all`: the scores of every batch, predicted classes, positions and labels.

    With `on_failure="skip"`, a detector that fails has NaN from that batch on, and its error in `failures`.

    Examples
    --------
    >>> from oodline import MSP
    >>> from oodline.testing import toy_problem
    >>> classifier, [(inputs, labels)] = toy_problem()
    >>> columns = ScoreCollector({"msp": MSP()})
    >>> columns.update(classifier(inputs), labels)
    >>> sorted(columns.ordered())
    ['content', 'index', 'labels', 'predicted', 'score/msp']
    """

    def __init__(self, detectors: Mapping[str, Detector], on_failure: Literal["raise", "skip"] = "raise") -> None:
        self.detectors, self.on_failure = detectors, on_failure
        self.merged = False
        self.load_state_dict({})

    @property
    def key(self) -> tuple[object, ...]:
        """The class and the detectors with their state."""
        return (type(self).__name__, fingerprint(self.detectors), self.on_failure)

    def fresh(self) -> Self:
        """Empty columns of the same detectors."""
        return type(self)(self.detectors, self.on_failure)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Score one batch."""
        scores = self._scores(activations)
        count = len(activations.samples)
        if labels is not None and (labels.shape != (count,) or activations.places is not None):
            labels = None  # they are not classes of the inputs, whatever they are
        unknown = torch.zeros(count, dtype=torch.int64)
        self._append(
            {
                **{f"score/{name}": values for name, values in scores.items()},
                "predicted": activations.predicted if activations.places is None else unknown - 1,
                "index": activations.samples,
                "content": content_of(activations),
                "labels": unknown + UNLABELLED if labels is None else labels.long(),
            }
        )
        self.labelled |= labels is not None and bool((labels >= 0).any())

    def ordered(self) -> dict[str, Tensor]:
        """The columns in the order they came, or of the positions where parts of them came from elsewhere."""
        whole = {name: column.values for name, column in self.columns.items()}
        if not self.merged:
            return whole
        order = whole["index"].argsort()
        return {name: values[order] for name, values in whole.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Whole columns, with the seconds of each detector and whether a sample has a label."""
        if not self.columns:
            return {}
        seconds = torch.tensor([*self.seconds.values()], dtype=torch.float64)
        about = {"seconds": seconds, "labelled": torch.tensor(self.labelled)}
        about |= {
            f"failure/{name}": torch.tensor(list(str(e).encode()), dtype=torch.uint8)
            for name, e in self.failures.items()
        }
        return {name: column.values for name, column in self.columns.items()} | about

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore from `state_dict()`."""
        self.columns: dict[str, GrowingTensor] = {}
        about = {name for name in state if name in ("seconds", "labelled") or name.startswith("failure/")}
        self._append({name: tensor for name, tensor in state.items() if name not in about})
        spent = state["seconds"].tolist() if state else [0.0] * len(self.detectors)
        self.seconds = dict(zip(self.detectors, spent, strict=True))
        self.labelled = bool(state["labelled"]) if state else False
        self.failures: dict[str, OodlineError] = {
            name: OodlineError(bytes(state[f"failure/{name}"].tolist()).decode())
            for name in self.detectors
            if f"failure/{name}" in state
        }

    def merge(self, other: Self) -> Self:
        """Take in the rows of `other`; the whole is then in the order of the positions."""
        self._append({name: column.values for name, column in other.columns.items()})
        self.seconds = {name: spent + other.seconds[name] for name, spent in self.seconds.items()}
        self.labelled |= other.labelled
        self.failures = other.failures | self.failures
        self.merged = True
        return self

    def _scores(self, activations: Activations) -> dict[str, Tensor]:
        if self.on_failure == "raise":
            return score_batch(self.detectors, activations, self.seconds)
        scores = {}
        for name, detector in self.detectors.items():
            scores[name] = torch.full((len(activations.samples),), torch.nan, dtype=torch.float64)
            if name not in self.failures:
                try:
                    scores |= score_batch({name: detector}, activations, self.seconds)
                except OodlineError as error:
                    self.failures[name] = error
        return scores

    def _append(self, batch: Mapping[str, Tensor]) -> None:
        for name, values in batch.items():
            self.columns.setdefault(name, GrowingTensor(values.dtype)).append(values.cpu())


class GrowingTensor:
    """Values that are appended to one tensor, which doubles where it is full.

    A list of the small tensors of all batches would hold as many values, but each of them would keep the memory around
    it from being used again: with large temporary tensors in between, gigabytes.

    Examples
    --------
    >>> column = GrowingTensor(torch.int64)
    >>> column.append(torch.tensor([1, 2]))
    >>> column.append(torch.tensor([3]))
    >>> column.values
    tensor([1, 2, 3])
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._room = torch.empty(1024, dtype=dtype)
        self._length = 0

    @property
    def values(self) -> Tensor:
        """What was appended (N,); a view."""
        return self._room[: self._length]

    def __len__(self) -> int:
        return self._length

    def clear(self) -> None:
        """Forget the values and keep the room."""
        self._length = 0

    def append(self, values: Tensor) -> None:
        """Copy values (M,) to the end."""
        end = self._length + len(values)
        if end > len(self._room):
            self._room = torch.cat([self.values, self._room.new_empty(max(end, 2 * self._length) - self._length)])
        self._room[self._length : end] = values
        self._length = end
