"""Find wrong labels in training data, which contradict those of related samples (Kim et al., NeurIPS 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from oodline._util.checked import checked
from oodline._util.hashing import splitmix64
from oodline._util.ranges import Count, Positive, Share
from oodline.data.batch import Loader
from oodline.detectors.relation import WEAK, relations
from oodline.errors import InputError
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.statistics.sources import group

CHUNK = 256
"""Samples that are compared with all others at a time."""

CLEAR = 0.05
"""A sample counts as wrongly labelled in the second round below minus this fraction of the largest score."""


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """All samples of a data set, the most suspicious label first; what `find_label_errors` returns.

    Parameters
    ----------
    index : Tensor (N,), int64
        Position of each sample in the data set.
    score : Tensor (N,), float64
        How far related samples agree with its label, in ascending order. Negative: they contradict it more than they
        agree.
    label : Tensor (N,), int64
        As the data set has it.
    predicted : Tensor (N,), int64
        Class with the largest logit.

    Examples
    --------
    >>> order = torch.tensor([4, 0, 1])
    >>> found = LabelErrors(order, torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([1, 0, 2]), torch.tensor([0, 0, 2]))
    >>> found.suspects
    tensor([4])
    """

    index: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    label: Int[Tensor, " n"]
    predicted: Int[Tensor, " n"]

    @property
    def suspects(self) -> Int[Tensor, " s"]:
        """Positions of the samples with a negative score, the most suspicious first."""
        return self.index[self.score < 0]


@checked
def find_label_errors(
    classifier: Classifier,
    loader: Loader,
    *,
    power: Positive = 4.0,
    threshold: Share = WEAK,
    compare: Count = 20_000,
) -> LabelErrors:
    """Rank training samples by how much the labels of related samples contradict their own.

    `s_i = sum_j (+-1) [k_ij > threshold] k_ij^power` with the relation `k_ij` of `Relation`, plus where i and j have
    the same label. In a second round, samples that the first one found clearly wrong speak for the other side.

    Parameters
    ----------
    classifier : Classifier
        Trained on the data. Precomputed features and logits do as well: `oodline.from_features`.
    loader : iterable
        Batches of the training data with labels.
    power : float
        Above 0; 4 in the paper: related samples must be close to count.
    threshold : float
        In [0, 1]: relations up to this one count as none.
    compare : int
        Each sample is compared with at most this many, chosen by a hash of their index. Features of all samples are
        held in memory.

    Returns
    -------
    LabelErrors
        All samples, the most suspicious first.

    Raises
    ------
    InputError
        The loader is empty, yields no labels, or the classifier lacks features or logits.
    LabelError
        Labels are not classes of the classifier.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> inputs, labels = loader[0]
    >>> wrong = labels.clone()
    >>> wrong[7] = (wrong[7] + 1) % 3
    >>> find_label_errors(classifier, [(inputs, wrong)]).suspects[:1]
    tensor([7])
    """
    needs = Needs.FEATURES | Needs.LOGITS
    if why := classifier.lacking(needs):
        raise InputError(f"finding label errors {why}")
    parts: list[tuple[Tensor, ...]] = []
    for activations, labels in classifier.stream(loader, needs=needs):
        given, _ = group(activations, labels, "label")
        features, logits = activations.features.float().cpu(), activations.logits.float().cpu()
        parts.append((normalize(features), logits.softmax(1), given, logits.argmax(1), activations.index.cpu()))
    u, p, label, predicted, index = (torch.cat(columns) for columns in zip(*parts, strict=True))
    others = _some(index, compare)

    def agreement(chosen: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
        sums = []
        for rows in torch.split(torch.arange(len(u)), CHUNK):
            related = relations(u[rows], p[rows], u[chosen], p[chosen], power, threshold).double()
            same = label[rows].unsqueeze(1) == label[chosen]
            sums.append(torch.where(same, related, -related).sum(1))
        return torch.cat(sums)

    score = agreement(others)
    wrong = others[score[others] < -CLEAR * score.abs().amax()]
    score = score - 2 * agreement(wrong)
    order = score.argsort(stable=True)
    return LabelErrors(index[order], score[order], label[order], predicted[order])


def _some(index: Int[Tensor, " n"], most: int) -> Int[Tensor, " s"]:
    """Keep at most this many rows, chosen by a hash of their index, in the order of the data."""
    if len(index) <= most:
        return torch.arange(len(index))
    hashes = splitmix64(index.numpy().astype("uint64"))
    return torch.from_numpy(hashes.argsort()[:most].copy()).sort().values
