"""Check that the state of a detector from a file has the types and shapes that its score needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from oodline.detectors.base import Detector
from oodline.detectors.fitted import FittedTensor
from oodline.errors import ArtifactError, OodlineError
from oodline.guard.manifest import BackboneRecord
from oodline.model.activations import Activations
from oodline.model.head import Head, HeadInfo
from oodline.model.no_head import NoHead
from oodline.statistics import Backbone

SEEN = FittedTensor("Int", "S")


def check_tensors(name: str, detector: Detector, head: HeadInfo) -> None:
    """Raise `ArtifactError` where a fitted tensor is missing, or of another kind or shape than the detector declares.

    Members are checked too. The head gives the sizes C and D, as far as it knows them.
    """
    sizes = {name: size for name, size in (("C", head.num_classes), ("D", head.num_features)) if size}
    for tensor, declared in {"seen": SEEN, **detector.fitted_tensors}.items():
        value = detector._buffers[tensor]
        if value is None and tensor != "seen":
            raise ArtifactError(f"'{tensor}' of '{name}' is missing.")
        if value is not None and (problem := declared.problem(value, sizes)):
            raise ArtifactError(f"'{tensor}' of '{name}' {problem}.")
        if value is not None and value.is_floating_point() and bool(value.isnan().any()):
            raise ArtifactError(f"'{tensor}' of '{name}' holds NaN.")
    for attribute, member in detector.members:
        check_tensors(f"{name}.{attribute}", member, head)


@contextmanager
def state_fits(names: str) -> Iterator[None]:
    """Turn what scoring by a state that does not fit raises into an `ArtifactError`."""
    try:
        yield
    except OodlineError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        words = " ".join(str(error).split())[:200]
        raise ArtifactError(f"the state of {names} does not fit its classifier: {words}. Fit it again.") from error


def try_out(name: str, detector: Detector, head: Head) -> None:
    """Score two inputs whose features are 0, where features and logits are all that the detector reads.

    Raises
    ------
    ArtifactError
        That fails, or does not give one score each.
    """
    if isinstance(head, NoHead) or detector.needs_network:
        return  # what it reads is not at hand
    features = head.linear.weight.new_zeros(2, head.num_features)
    with torch.no_grad(), state_fits(f"'{name}'"):
        scores = detector(Activations(features, head(features), head, torch.arange(2)))
    if scores.shape != (2,):
        raise ArtifactError(f"the state of '{name}' gives {tuple(scores.shape)} scores for 2 inputs. Fit it again.")


def backbone_of(record: BackboneRecord, head: HeadInfo) -> Backbone:
    """What the features were like, by a file; raise `ArtifactError` where its sizes are not the head's."""
    if record.features != head.num_features or record.classes not in (0, head.num_classes):
        raise ArtifactError(
            f"the network it describes has {record.features} features and {record.classes} classes, and the head "
            f"{head.num_features} and {head.num_classes}."
        )
    return Backbone(**record.model_dump())
