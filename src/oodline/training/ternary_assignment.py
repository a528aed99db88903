"""PSA's ternary assignment: ID, outlier or neither, by energy (Predictive Sample Assignment, arXiv 2512.12906)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Share
from oodline.data.batch import Loader
from oodline.detectors.paper import Paper
from oodline.errors import SettingError
from oodline.model.classifier import Classifier
from oodline.training.assignment import Assignment, gather
from oodline.training.batches import OUTLIER


class TernaryAssignment:
    """An unlabelled sample is of its predicted class, an outlier, or discarded, as its log-sum-exp lies.

    Thresholds are quantiles of the log-sum-exp of labelled ID samples: at least that of `inlier` is ID, at most that of
    `outlier` an outlier, and between them neither. Assign anew each epoch, after training on the labelled samples alone
    for a while (30 epochs in the paper). Losses: `CrossEntropy` on labelled and assigned samples, 0.5 times the uniform
    cross-entropy of the outliers (`OutlierExposure`); the paper adds a supervised contrastive loss, which is not here.

    Parameters
    ----------
    inlier, outlier : float
        Quantiles in [0, 1]; the first is the higher one. The paper has 0.2 for outliers, its scripts 0.1.

    Raises
    ------
    SettingError
        The quantile for outliers is above that for ID samples.

    Examples
    --------
    >>> from oodline.testing import toy_loader, toy_problem
    >>> classifier, loader = toy_problem()
    >>> unlabelled = [torch.cat([toy_loader(seed=1)[0][0], torch.zeros(30, 4)])]
    >>> TernaryAssignment()(classifier, loader, unlabelled).counts()["outliers"] >= 30
    True
    """

    paper: ClassVar = Paper(
        "Predictive Sample Assignment for Semantically Coherent Out-of-Distribution Detection",
        "IEEE TCSVT 2025",
        "2512.12906",
    )

    @checked
    def __init__(self, *, inlier: Share = 0.9, outlier: Share = 0.2) -> None:
        if outlier > inlier:
            raise SettingError(f"`outlier` must be at most `inlier`, {inlier:g}; got {outlier:g}.")
        self.inlier, self.outlier = inlier, outlier

    @checked
    def __call__(self, classifier: Classifier, labelled: Loader, unlabelled: Loader) -> Assignment:
        """Assign every sample of an unlabelled set.

        Parameters
        ----------
        classifier : Classifier
            As far as it is trained.
        labelled : iterable
            ID training data; its labels are not read.
        unlabelled : iterable
            A mixture, in the order that the assignment is to have.
        """
        known = gather(classifier, labelled, labelled=False)[0].logits.logsumexp(1)
        found = gather(classifier, unlabelled, labelled=False)[0]
        return self.assign(known, found.logits.logsumexp(1), found.predicted)

    def assign(
        self, labelled: Float[Tensor, " m"], scores: Float[Tensor, " n"], predicted: Int[Tensor, " n"]
    ) -> Assignment:
        """From log-sum-exps of labelled (M,) and unlabelled samples (N,), and the classes of the latter (N,)."""
        low, high = torch.quantile(labelled.double(), torch.tensor([self.outlier, self.inlier], dtype=torch.float64))
        is_inlier, is_outlier = scores >= high, scores <= low
        labels = torch.where(is_inlier, predicted, OUTLIER)
        return Assignment(labels, is_inlier | is_outlier, torch.ones(len(scores)))
