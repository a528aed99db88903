"""Whether the state that a file gave to a detector has the kinds of numbers and the sizes that its score needs."""

from __future__ import annotations

import torch

from oodline.detectors.base import Detector
from oodline.errors import ArtifactError, OodlineError
from oodline.model.activations import Activations
from oodline.model.head import Head
from oodline.model.no_head import NoHead
from oodline.scoring.score import CHEAP


def check_tensors(name: str, detector: Detector) -> None:
    """Raise `ArtifactError` where a fitted tensor, of the detector or a member, is missing or of another kind."""
    if missing := [buffer for buffer in detector.fitted_buffers if getattr(detector, buffer) is None]:
        raise ArtifactError(f"'{missing[0]}' of '{name}' is missing.")
    for buffer, value in detector.named_buffers(recurse=False):
        expected = torch.int64 if buffer == "seen" else detector.dtypes.get(buffer)
        if value.dtype != expected and (expected is not None or value.dtype not in (torch.float32, torch.float64)):
            known = "floating-point numbers" if expected is None else str(expected)
            raise ArtifactError(f"'{buffer}' of '{name}' holds {value.dtype} in place of {known}.")
    for attribute, member in detector.members:
        check_tensors(f"{name}.{attribute}", member)


def try_out(name: str, detector: Detector, head: Head) -> None:
    """Score two inputs whose features are 0, where features and logits are all that the detector reads.

    Raises
    ------
    ArtifactError
        That fails, or does not give one score each.
    """
    if head.num_classes == 0 or isinstance(head, NoHead) or detector.all_layers or detector.all_needs & ~CHEAP:
        return  # what it reads is not at hand
    features = head.linear.weight.new_zeros(2, head.num_features)
    try:
        with torch.no_grad():
            scores = detector(Activations(features, head(features), head, torch.arange(2)))
    except OodlineError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise ArtifactError(f"the state of '{name}' does not fit its head: {words}. Fit it again.") from error
    if scores.shape != (2,):
        raise ArtifactError(f"the state of '{name}' gives {tuple(scores.shape)} scores for 2 inputs. Fit it again.")
