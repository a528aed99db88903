"""Relation: how strongly training samples are related to a sample (Kim et al., NeurIPS 2023).

After the authors' code, commit 236cc2f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from oodline._util.ranges import Count, Positive, Share
from oodline.detectors.assumptions import SOFTMAX, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.detectors.parts.sample_size import sample_size
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic

WEAK = 0.03
"""Relations up to this one count as none, as in the authors' code."""


@dataclass(frozen=True)
class DirectionsAndProbabilities:
    """The features at length 1, then the softmax of the logits, (N, D + C)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """One row per sample."""
        return torch.cat([normalize(activations.features), activations.logits.softmax(1)], 1)


def relations(
    directions: Float[Tensor, "n d"],
    probabilities: Float[Tensor, "n c"],
    other_directions: Float[Tensor, "s d"],
    other_probabilities: Float[Tensor, "s c"],
    power: float,
    threshold: float,
) -> Float[Tensor, "n s"]:
    """`[k > threshold] k^power` with `k = max(0, u . u') (p . p')`, of each sample with each other one, in [0, 1].

    Examples
    --------
    >>> u, p = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    >>> relations(u, p, u, p, 2.0, 0.03)
    tensor([[0.2500, 0.0000],
            [0.0000, 1.0000]])
    """
    kernel = (directions @ other_directions.T).clamp(min=0) * (probabilities @ other_probabilities.T)
    return torch.where(kernel > threshold, kernel, 0.0).pow(power)


class Relation(Detector):
    """Mean relation to the training samples: `mean_i [k_i > threshold] k_i^power`, `k_i = max(0, u.u_i) (p.p_i)`.

    `u` are the features at length 1 and `p` the class probabilities, of the sample and of training sample i. Higher =
    more in-distribution. Range: [0, 1], no unit; the paper's sum is this times the number of samples in the bank.

    Parameters
    ----------
    power : float
        Above 0; larger ones let the nearest samples decide. The paper takes 1 for OOD detection.
    threshold : float
        In [0, 1]: relations up to this one count as none.
    bank : int
        At most this many training samples are kept, chosen by a hash of their index (see `Reservoir`); D + C numbers
        each, and not more than `2**26` numbers in all.

    Raises
    ------
    SettingError
        A setting is out of range.

    See Also
    --------
    oodline.find_label_errors : The same relation within the training data shows labels that contradict it.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> Relation().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "relation"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS
    assumes: ClassVar = (
        SOFTMAX,
        TellsApart(),
    )
    paper: ClassVar = Paper(
        "Neural Relation Graph: A Unified Framework for Identifying Label Noise and Outlier Data",
        "NeurIPS 2023",
        "2301.12321",
    )
    tunable: ClassVar = {"power": (1.0, 2.0, 4.0, 8.0)}
    directions: Fitted[Float[Tensor, "N D"]]
    probabilities: Fitted[Float[Tensor, "N C"]]

    def __init__(self, *, power: Positive = 1.0, threshold: Share = WEAK, bank: Count = 10_000) -> None:
        super().__init__()
        self.power = power
        self.threshold = threshold
        self.bank = bank

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of directions and probabilities."""
        return {
            "bank": Reservoir(
                sample_size(self.bank, head.num_features + head.num_classes), DirectionsAndProbabilities()
            )
        }

    def estimate(self, head: Head, bank: Reservoir) -> None:
        """Keep the sample."""
        rows, width = bank.rows, head.num_features
        self.directions, self.probabilities = rows[:, :width].contiguous(), rows[:, width:].contiguous()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Mean relation (N,)."""
        found = relations(
            normalize(activations.features),
            activations.logits.softmax(1),
            self.directions,
            self.probabilities,
            self.power,
            self.threshold,
        )
        return found.mean(1)
