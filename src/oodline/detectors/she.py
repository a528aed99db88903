"""SHE: agreement with the stored pattern of the predicted class (Zhang et al., ICLR 2023, Eq. 8)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.assumptions import LABELLED, PerClass, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.errors import LabelError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


class SHE(Detector):
    """Simplified Hopfield energy: `f . m_c`, c the predicted class and m_c the mean feature of its training samples.

    Only training samples that the classifier gets right are stored. Higher = more in-distribution. Any real number, in
    squared units of the features.

    Parameters
    ----------
    unseen : {"error", "skip"}
        What becomes of a class of which no training sample is classified correctly: an error, or c is the most likely
        of the other classes.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        No sample of a class was classified correctly.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> SHE().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "she"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS
    assumes: ClassVar = (LABELLED, PerClass(10, "a mean of each class"), TellsApart())
    paper: ClassVar = Paper(
        "Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern Hopfield Energy",
        "ICLR 2023",
    )
    patterns: Fitted[Float[Tensor, "C D"]]

    def __init__(self, *, unseen: Literal["error", "skip"] = "error") -> None:
        super().__init__()
        self.unseen = unseen

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means of the features of samples classified correctly."""
        return {"correct": ClassMoments(by="correct")}

    def estimate(self, head: Head, correct: ClassMoments) -> None:
        """Keep the means."""
        missing = [c for c, count in enumerate(correct.count[:-1].tolist()) if count == 0]
        if missing and (self.unseen == "error" or len(missing) == len(correct.count) - 1):
            names = ", ".join(str(c) for c in missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise LabelError(
                f"{len(missing)} of {len(correct.count) - 1} classes have no sample that is classified correctly, and "
                f"SHE stores those: {names}. Fit on data that shows every class, labelled in the order of the logits, "
                "or leave those classes out: unseen=skip."
            )
        self.patterns = correct.mean[:-1].float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Inner product with the pattern (N,)."""
        logits = activations.logits
        if self.unseen == "skip":
            # the mean of no samples was kept as zeros
            logits = torch.where((self.patterns == 0).all(1), -torch.inf, logits)
        return (activations.features * self.patterns[logits.argmax(1)]).sum(1)
