"""`GuardGraph`: a guard as one graph of tensors, from pixels or tokens to logits, score, p-value and verdict.

The graph is traced from the guard's own code, the classifier, the detector and the calibration, so there is no second
formula that could differ. Operations that some runtimes lack are expressed by operators that all have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from oodline.data.batch import Inputs
from oodline.detectors.base import Detector
from oodline.errors import ExportError, InputError, NotFittedError
from oodline.model.classifier import Classifier
from oodline.passes.fit import reads
from oodline.preprocessing.kinds import AnyPreprocessing
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.scoring.class_calibration import AnyCalibration

OUTPUTS = ("logits", "label", "score", "p_value", "is_ood")

OF_IMAGES = ("image_score", "image_p_value", "image_is_ood")
"""What a graph of pixels gives beside the maps: one of each per image."""


class Guarded(Protocol):
    """What a graph is made of; see `Guard`."""

    classifier: Classifier
    detector: Detector
    calibration: AnyCalibration | None
    class_names: tuple[str, ...] | None
    preprocessing: AnyPreprocessing | None


class GuardGraph(nn.Module):
    """Classifier, detector and calibration as one module, from inputs to the five tensors of `OUTPUTS`.

    For a guard of pixels these are maps, (N, C, H, W) and (N, H, W), at the head's resolution for inputs of the
    example's size, and `OF_IMAGES` follow.

    Parameters
    ----------
    guard : Guard
        Calibrated.
    preprocessing : Preprocessing, optional
        Its normalisation becomes the first step: the inputs are then pixels, uint8 or in [0, 1], of the size that the
        classifier reads.

    Raises
    ------
    NotFittedError
        The guard is not calibrated.
    ExportError
        The detector cannot become a graph; the message says why.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> graph = GuardGraph(ol.Guard(classifier, ol.Energy()).calibrate(loader))
    >>> dict(zip(OUTPUTS, graph(torch.zeros(2, 4)), strict=True))["is_ood"]
    tensor([True, True])
    """

    def __init__(self, guard: Guarded, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        if guard.calibration is None:
            raise NotFittedError(
                "the guard has no threshold yet, so it has no verdicts to export. Call "
                "guard.calibrate(held_out_loader) first, or pass --calibrate to `oodline fit`."
            )
        if why := guard.detector.why_not_exportable:
            raise ExportError(f"'{guard.detector.name}' cannot be exported: {why}. Choose another detector.")
        self.classifier = guard.classifier
        self.model = guard.classifier.model
        self.detector = guard.detector
        self.calibration = guard.calibration
        self.preprocessing = preprocessing
        self.outputs = OUTPUTS if guard.classifier.rows is None else OUTPUTS + OF_IMAGES

    def forward(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Logits (N, C), label (N,) int64, score (N,), p-value (N,) float64, verdict (N,) bool.

        An input that is NaN or infinite, or whose score or a logit is, is flagged, with the smallest p-value there is.
        """
        # of the inputs themselves, since the ReLU of some runtimes makes 0 of NaN
        given = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
        finite = [torch.isfinite(value) for value in given if value.is_floating_point()]
        if self.preprocessing is not None:
            if not isinstance(inputs, Tensor):
                raise InputError("preprocessing takes pixels, one tensor (N, channels, height, width).")
            inputs = self.preprocessing.normalise(inputs)
        activations = self.classifier.trace(inputs, **reads([self.detector]))
        score = self.detector(activations)
        label = activations.predicted
        # the guard refuses an input that overflows or is NaN; a graph cannot, so it flags it as nothing ID could be
        valid = torch.isfinite(score)
        places = activations.places
        for each in finite:
            good = each if each.ndim == 1 else each.flatten(1).all(1)
            valid = valid & (good if places is None else good.repeat_interleave(places.size))
        if activations.logits.shape[1]:  # runtimes differ on what holds for all of no logits
            valid = valid & torch.isfinite(activations.logits).all(1)
        judged = torch.where(valid, score.double(), -torch.inf)
        p_value, is_ood = self.calibration.p_value(judged, label), self.calibration.is_ood(judged, label)
        if places is None:
            return activations.logits, label, score, p_value, is_ood
        maps = (
            each.reshape(-1, *places.grid, *each.shape[1:])
            for each in (activations.logits, label, score, p_value, is_ood)
        )
        logits, *others = maps
        whole = places.per_input.of_all(judged.reshape(-1, places.size))
        verdict = self.calibration.p_value(whole), self.calibration.is_ood(whole)
        return logits.movedim(-1, 1), *others, whole, *verdict


def trace(graph: nn.Module, inputs: Inputs) -> ExportedProgram:
    """Trace a module of one argument whose batch, the first dimension of every tensor, may have any size.

    Raises
    ------
    ExportError
        The model decides by values, or fixes the size of its batch.

    Examples
    --------
    >>> program = trace(nn.Linear(4, 2), torch.zeros(2, 4))
    >>> program.module()(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """
    batch = Dim("batch", min=1)
    sizes = {name: {0: batch} for name in inputs} if isinstance(inputs, Mapping) else {0: batch}
    try:
        with torch.no_grad():
            program: ExportedProgram = torch.export.export(graph, (inputs,), dynamic_shapes=(sizes,), strict=False)
            return program
    except Exception as error:
        # torch.export has no error of its own: the model's Python may fail in any way
        raise ExportError(
            f"torch.export cannot follow this classifier: {type(error).__name__}: {str(error).strip().splitlines()[0]} "
            "A graph must not depend on values, nor on the size of the batch."
        ) from error


def spelled_out(program: ExportedProgram) -> ExportedProgram:
    """The same program without the operators that ONNX lacks."""
    table: dict[Any, Callable[..., Any]] = torch.export.default_decompositions()
    table[torch.ops.aten.searchsorted.Tensor] = lambda ends, values, *, right=False, **_: place(ends, values, right)
    table[torch.ops.aten.bucketize.Tensor] = lambda values, ends, *, right=False, **_: place(ends, values, right)
    table[torch.ops.aten.sort.stable] = _stable_sort
    table[torch.ops.aten.hypot.default] = _hypot
    table[torch.ops.aten._cdist_forward.default] = _euclidean
    found: ExportedProgram = program.run_decompositions(table)
    return found


def _stable_sort(values: Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    # ONNX's TopK is stable by definition: of equal values, the lower index comes first
    top = values.topk(values.shape[dim], dim=dim, largest=descending)
    return top.values, top.indices


def _hypot(a: Tensor, b: Tensor) -> Tensor:
    large, small = a.abs().maximum(b.abs()), a.abs().minimum(b.abs())
    ratio = torch.where(large > 0, small / large, 0.0)
    return large * (1 + ratio.square()).sqrt()


def _euclidean(a: Tensor, b: Tensor, p: float, mode: int | None) -> Tensor:
    # in double precision the expansion loses nothing that single precision could hold; nothing here takes another p
    if p != 2:
        raise ExportError(f"a graph measures Euclidean distances; this one asks for the norm of order {p}.")
    x, y = a.double(), b.double()
    squared = x.square().sum(-1, keepdim=True) - 2 * x @ y.mT + y.square().sum(-1).unsqueeze(-2)
    return squared.clamp(min=0).sqrt().to(a)


def place(ends: Float[Tensor, " n"], values: Float[Tensor, "*m"], right: bool) -> Int[Tensor, "*m"]:
    """`torch.searchsorted` by bisection, in as many steps as n has bits.

    Examples
    --------
    >>> place(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0, 9.0]), right=True)
    tensor([0, 3, 3])
    """
    bits = ends.shape[0].bit_length()
    padded = nn.functional.pad(ends, (0, 2**bits - 1 - ends.shape[0]), value=torch.inf)
    found = torch.zeros_like(values, dtype=torch.int64)
    for bit in reversed(range(bits)):
        probe = padded.take(found + (2**bit - 1))
        found = found + (probe <= values if right else probe < values) * 2**bit
    return found.clamp(max=ends.shape[0])  # an infinite value is not below the padding
