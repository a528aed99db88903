"""`Assignment`: what each sample of an unlabelled, mixed set is taken for, as a class, an outlier, or neither."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline.data.batch import Loader
from oodline.errors import LabelError
from oodline.model.activations import Activations
from oodline.model.classifier import Classifier
from oodline.training.batches import OUTLIER


@dataclass(frozen=True, eq=False)
class Assignment:
    """Pseudo-labels of an unlabelled set, in its order.

    Parameters
    ----------
    labels : Tensor (N,)
        Classes from 0; -1 for outliers, and for what is not kept.
    kept : Tensor (N,), bool
        Which samples to train on; the others are discarded.
    weights : Tensor (N,)
        Of each sample in the loss.

    Examples
    --------
    >>> found = Assignment(torch.tensor([0, -1, -1]), torch.tensor([True, True, False]), torch.ones(3))
    >>> found.counts()
    {'inliers': 1, 'outliers': 1, 'discarded': 1}
    """

    labels: Int[Tensor, " n"]
    kept: Bool[Tensor, " n"]
    weights: Float[Tensor, " n"]

    def counts(self) -> dict[str, int]:
        """How many are taken for ID, for outliers, and for neither."""
        outliers = int((self.kept & (self.labels == OUTLIER)).sum())
        kept = int(self.kept.sum())
        return {"inliers": kept - outliers, "outliers": outliers, "discarded": len(self.kept) - kept}


def gather(classifier: Classifier, loader: Loader, *, labelled: bool) -> tuple[Activations, Tensor]:
    """Features and logits of a data set on the CPU, and its labels; -1 for all where labels are not read.

    Raises
    ------
    LabelError
        Labels are missing where they are read.
    InputError
        The loader is empty.
    """
    parts = [(activations.to("cpu"), labels) for activations, labels in classifier.stream(loader)]
    whole = parts[0][0].replace(
        features=torch.cat([each.features for each, _ in parts]),
        logits=torch.cat([each.logits for each, _ in parts]),
        index=torch.cat([each.index for each, _ in parts]),
    )
    if not labelled:
        return whole, torch.full((len(whole),), OUTLIER)
    if any(labels is None for _, labels in parts):
        raise LabelError("the labelled set has batches without labels.")
    return whole, torch.cat([labels.cpu().long() for _, labels in parts if labels is not None])
