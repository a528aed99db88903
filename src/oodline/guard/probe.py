"""Check a loaded classifier and its detectors by their outputs for a few stored inputs.

Equal weights do not make equal networks: another `forward`, a constant that is not a buffer, another version of a
library or of oodline show only in the outputs. The inputs are a pattern made from a formula, in the shape, type
and range of the held-out data, so a file holds none of that data, unless it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from math import prod
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor

from oodline._util.hashing import splitmix64
from oodline._util.warning import warn
from oodline.data.batch import Inputs, unpack
from oodline.detectors.base import Detector
from oodline.errors import ArtifactError, OodlineError, SettingError
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.model.head import HeadInfo
from oodline.model.rows.places import mean_by
from oodline.passes.fit import reads

INPUTS = 2
"""Inputs of the pattern: white noise, and slow waves."""

MOST_KEPT = 8
"""Held-out inputs that a file can keep at most."""

MOST_VALUES = 2**24
"""Values of one input at most; a classifier with larger ones gets no probe."""

TOLERANCE = 0.005
"""Difference of logits and of scores, as a fraction of their range, that hardware and libraries may make."""

ROUNDING = 1e-3
"""The same as a fraction of the largest of them, where their range is small."""

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}
DTYPES |= {str(d).removeprefix("torch."): d for d in (torch.uint8, torch.int32, torch.int64, torch.bool)}


class InputRecord(BaseModel):
    """One tensor of the inputs: the shape for one sample, the type, and the range of its values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...] = Field(max_length=8)
    dtype: str
    low: FiniteFloat
    high: FiniteFloat


@dataclass(frozen=True, eq=False)
class Probe:
    """Inputs, and the logits and scores that they had.

    Parameters
    ----------
    fields : mapping of str to InputRecord
        By the name of the argument; "" for a model that takes one tensor.
    logits : Tensor (N, C), float32
        What the classifier returned.
    scores : mapping of str to Tensor (N,), float64
        By detector.
    kept : mapping of str to Tensor
        The inputs themselves, where held-out ones were kept; else they follow from `fields`.
    """

    fields: Mapping[str, InputRecord]
    logits: Float[Tensor, "n c"]
    scores: Mapping[str, Float[Tensor, " n"]]
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def inputs(self) -> Inputs:
        """What the classifier was given."""
        named = {
            name: (self.kept[name] if name in self.kept else pattern(about)).to(DTYPES[about.dtype])
            for name, about in self.fields.items()
        }
        return named.get("", named)

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors to write, by name."""
        kept = {f"probe/input/{name}": _writable(value) for name, value in self.kept.items()}
        scores = {f"probe/score/{name}": value for name, value in self.scores.items()}
        return {"probe/logits": self.logits, **scores, **kept}

    @classmethod
    def from_state_dict(cls, fields: Mapping[str, InputRecord], tensors: Mapping[str, Tensor], head: HeadInfo) -> Self:
        """The probe whose `state_dict` this was, without the leading "probe/".

        Raises
        ------
        ArtifactError
            Sizes or types do not fit one another, or the head.
        """
        logits = tensors["logits"]
        scores = {k.removeprefix("score/"): v for k, v in tensors.items() if k.startswith("score/")}
        kept = {k.removeprefix("input/"): v for k, v in tensors.items() if k.startswith("input/")}
        count = len(next(iter(kept.values()))) if kept else INPUTS
        sound = len(fields) > 0 and logits.dtype == torch.float32 and logits.shape == (count, head.num_classes)
        sound &= all(v.dtype == torch.float64 and v.shape == (count,) for v in scores.values())
        sound &= all(about.dtype in DTYPES and prod(about.shape) <= MOST_VALUES for about in fields.values())
        sound &= not kept or kept.keys() == fields.keys()
        sound &= all(value.shape == (count, *fields[name].shape) for name, value in kept.items())
        sound &= len(tensors) == 1 + len(scores) + len(kept) and 0 < count <= MOST_KEPT
        if not sound:
            raise ArtifactError("the probe does not hold inputs, and logits and scores of these.")
        return cls(fields, logits, scores, kept)

    def difference(self, classifier: Classifier, detectors: Mapping[str, Detector], spread: Mapping[str, float]) -> str:
        """Say in a few words how logits or scores differ from those that are stored; "" where they do not.

        Parameters
        ----------
        classifier, detectors
            As they are now.
        spread : mapping of str to float
            Range of the held-out scores of each detector, where it is known.
        """
        try:
            logits, scores = _run(classifier, detectors, self.inputs)
        except OodlineError as error:
            return f"the classifier refuses inputs that it took before: {error}"
        allowed = _allowed(self.logits)
        if logits.shape != self.logits.shape or (off := float((logits - self.logits).abs().max())) > allowed:
            how = "of another shape" if logits.shape != self.logits.shape else f"that differ by up to {off:.3g}"
            return f"the same inputs give logits {how}, where {allowed:.3g} is allowed"
        for name, known in self.scores.items():
            if name not in scores:
                continue
            allowed = max(_allowed(known), TOLERANCE * spread.get(name, 0.0))
            if (off := float((scores[name] - known).abs().max())) > allowed:
                return (
                    f"'{name}' gives the same inputs scores that differ by up to {off:.3g}, where {allowed:.3g} is "
                    "allowed, although the logits are the same"
                )
        return ""

    def depends_on_batch(self, classifier: Classifier) -> str:
        """Say how the logits of each input alone differ from those of all together; "" where they do not."""
        named = self.inputs
        count, allowed = len(self.logits), _allowed(self.logits)
        for i in range(count):
            row = {k: v[i : i + 1] for k, v in named.items()} if isinstance(named, Mapping) else named[i : i + 1]
            try:
                off = float((_run(classifier, {}, row)[0] - self.logits[i]).abs().max())
            except OodlineError as error:
                return f"alone: {error}"
            if off > allowed:
                return f"alone: an input has logits that differ by up to {off:.3g} from those it has beside others"
        return ""


class UnsteadyClassifierWarning(UserWarning):
    """A classifier is random, or its answer for one input depends on the others in the batch."""


def take_probe(
    classifier: Classifier, detectors: Mapping[str, Detector], batch: Any, keep_inputs: int = 0
) -> Probe | None:
    """Run classifier and detectors over a pattern like the inputs of a batch, or over its first inputs.

    Returns
    -------
    Probe or None
        None where it would prove nothing: the classifier refuses the pattern, is random, or its inputs are not tensors.

    Warns
    -----
    UnsteadyClassifierWarning
        The same inputs have other logits when they are run again, or alone.

    Raises
    ------
    SettingError
        More inputs are to be kept than `MOST_KEPT`, or these are too large.

    Examples
    --------
    >>> from oodline import Energy
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> probe = take_probe(classifier, {"energy": Energy()}, loader[0])
    >>> probe.difference(classifier, {"energy": Energy()}, {})
    ''
    >>> probe.difference(classifier, {"energy": Energy(temperature=99.0)}, {}).partition(" scores")[0]
    "'energy' gives the same inputs"
    """
    if not 0 <= keep_inputs <= MOST_KEPT:
        raise SettingError(f"`keep_inputs` must be between 0 and {MOST_KEPT}; got {keep_inputs}.")
    if batch is None or classifier.lacking(Needs.INPUTS):
        return None  # it computes nothing that could change: its features came from elsewhere
    inputs, _, _ = unpack(batch, 0)
    named = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
    if not named or not all(isinstance(value, Tensor) and value.ndim for value in named.values()):
        return None
    if not all(value.shape[0] and _usable(value) for value in named.values()):
        if keep_inputs:
            raise SettingError(
                f"these inputs cannot be kept: more than {MOST_VALUES} values each, or not finite. Leave out "
                "keep_inputs."
            )
        return None
    fields = {name: _describe(value) for name, value in named.items()}
    kept = {name: value[:keep_inputs].detach().cpu().clone() for name, value in named.items()} if keep_inputs else {}
    probe = Probe(fields, torch.empty(0, 0), {}, kept)
    try:
        logits, scores = _run(classifier, detectors, probe.inputs)
        probe = replace(probe, logits=logits, scores=scores)
        again = probe.difference(classifier, detectors, {})
        if why := f"twice: {again}" if again else probe.depends_on_batch(classifier):
            warn(
                f"the classifier does not give one answer per input. Run {why}. No false-alarm rate can be promised "
                "for such a classifier: switch off dropout and what else is random, and keep running statistics in "
                "batch norms.",
                UnsteadyClassifierWarning,
            )
        return None if again else probe
    except OodlineError:
        return None


def pattern(about: InputRecord) -> Tensor:
    """Values in a range, from a formula: the same ones everywhere, (2, ...).

    Examples
    --------
    >>> pattern(InputRecord(shape=(3,), dtype="int64", low=0, high=9))
    tensor([[8, 5, 5],
            [9, 1, 4]])
    """
    size = prod(about.shape)
    noise = splitmix64(np.arange(size, dtype=np.uint64)) / 2.0**64
    waves = 0.5 + 0.5 * np.cos(np.arange(size) * (7 / max(size, 1)))
    values = about.low + (about.high - about.low) * torch.from_numpy(np.stack([noise, waves]))
    if not DTYPES[about.dtype].is_floating_point:
        values = values.round()
    return values.reshape(INPUTS, *about.shape).to(DTYPES[about.dtype])


def peek(loader: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first batch of a loader, None where there is none, and a loader that still has it.

    Examples
    --------
    >>> first, loader = peek(iter([1, 2]))
    >>> first, list(loader)
    (1, [1, 2])
    """
    first = next(iter(loader), None)
    if isinstance(loader, Iterator) and first is not None:
        return first, chain([first], loader)
    return first, loader


def _writable(value: Tensor) -> Tensor:
    # the kinds of numbers that a file holds
    if value.is_floating_point():
        return value if value.dtype == torch.float64 else value.float()
    return value if value.dtype == torch.bool else value.long()


def _allowed(values: Tensor) -> float:
    return max(TOLERANCE * float(values.max() - values.min()), ROUNDING * float(values.abs().max()))


def _usable(value: Tensor) -> bool:
    known = value.dtype in DTYPES.values() and prod(value.shape[1:]) <= MOST_VALUES
    return known and bool(torch.isfinite(value).all())


def _describe(value: Tensor) -> InputRecord:
    return InputRecord(
        shape=tuple(value.shape[1:]),
        dtype=str(value.dtype).removeprefix("torch."),
        low=float(value.min()) if value.numel() else 0.0,
        high=float(value.max()) if value.numel() else 0.0,
    )


def _run(
    classifier: Classifier, detectors: Mapping[str, Detector], inputs: Inputs
) -> tuple[Float[Tensor, "n c"], dict[str, Float[Tensor, " n"]]]:
    activations = classifier.everywhere()(inputs, **reads(detectors.values()))
    with torch.no_grad():
        scores = {
            name: activations.judged(detector.score_rows(activations)).to("cpu", torch.float64).nan_to_num(posinf=0.0)
            for name, detector in detectors.items()
        }
    places, logits = activations.places, activations.logits
    if places is not None:  # one row per input, as everywhere in a file
        logits = mean_by(logits, places.group, places.inputs)
    return logits.to("cpu", torch.float32), scores
