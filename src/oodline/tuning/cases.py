"""The cases on which candidates are judged: what each is fitted from, and what it has to tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.errors import InputError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head, LinearHead
from oodline.model.no_head import NoHead
from oodline.passes.fit import share_equal
from oodline.statistics import Statistic
from oodline.statistics.sources import group as by_class
from oodline.tuning.feature_space import MADE_UP
from oodline.tuning.held_out import HeldOut
from oodline.tuning.leave_classes_out import Fold, folds
from oodline.tuning.trial import Trial


class Case:
    """One head, the statistics of the fit data that it sees, and what candidates have to tell apart.

    Parameters
    ----------
    detectors : sequence of Detector or None
        Whose statistics to gather; None for a candidate that could not be built.
    head : Head
        The classifier's, or what a fold leaves of it.
    trial : Trial
        Outliers are named `GROUP/NAME`.
    fold : Fold, optional
        Which classes are left.
    """

    def __init__(
        self, detectors: Sequence[Detector | None], head: Head, trial: Trial, fold: Fold | None = None
    ) -> None:
        self.head, self.trial, self.fold = head, trial, fold
        self.requests: list[dict[str, Statistic]] = [{} if d is None else d._requests(head) for d in detectors]
        self._shared = share_equal(self.requests)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in a batch of the fit data."""
        if self.fold is not None:
            activations, labels = self.fold.inside(activations, by_class(activations, labels, "label")[0])
        if len(activations):
            for statistic in self._shared:
                statistic.update(activations, labels)

    def areas(self, detector: Detector, request: Mapping[str, Statistic]) -> dict[str, float]:
        """AUROC against each set of outliers of the detector fitted from its statistics."""
        detector._settle(request, self.head)
        return self.trial.areas(detector)


def make_cases(detectors: Sequence[Detector | None], head: Head, held_out: HeldOut, seed: int) -> list[Case]:
    """What the candidates are to tell apart: transformed images, or what can be made up without images.

    Raises
    ------
    InputError
        The inputs are not images, and the detectors read more than features and logits.
    """
    outliers = {f"{group}/{name}": made for group, sets in held_out.outliers.items() for name, made in sets.items()}
    if outliers:
        return [Case(detectors, head, Trial(held_out.ids, outliers))]
    known = next(d for d in detectors if d is not None)
    if known.needs_network:
        raise InputError(
            f"no pseudo-outliers can be made for {type(known).__name__}: the inputs are not images (N, C, H, W) to "
            "transform, and it reads more than features and logits, which are all that can be made up without them."
        )
    if isinstance(head, NoHead) and head.features and Needs.LOGITS in known.all_needs:
        raise InputError(
            f"no pseudo-outliers can be made for {type(known).__name__}: it reads logits, and without the head nothing "
            "says which logits changed features would have. Pass head=(W, b), or --model features:HEAD_FILE."
        )
    generator = torch.Generator().manual_seed(seed)
    made_up = {f"near/{name}": make(held_out.ids, generator) for name, make in MADE_UP.items()}
    cases = [Case(detectors, head, Trial(held_out.ids, made_up))]
    if isinstance(head, LinearHead) and held_out.labels is not None:
        labels, classes = by_class(held_out.ids, held_out.labels, "label")
        for fold in folds(classes, seed):
            inside, outside = fold.inside(held_out.ids, labels)[0], fold.outside(held_out.ids, labels)
            if len(inside) and len(outside):
                cases.append(Case(detectors, fold.head(head), Trial(inside, {"near/left-out classes": outside}), fold))
    return cases
