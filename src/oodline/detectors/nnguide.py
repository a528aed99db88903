"""NNGuide: energy guided by the nearest training samples (Park, Jung and Teoh, ICCV 2023, Eq. 3-5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from oodline._util.ranges import Count
from oodline.detectors.assumptions import SOFTMAX, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.errors import InputError, SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic


@dataclass(frozen=True)
class ConfidentDirections:
    """Normalised features times the energy of the sample, (N, D)."""

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """One row per sample."""
        return normalize(activations.features) * activations.logits.logsumexp(1, keepdim=True)


class NNGuide(Detector):
    """Energy times guidance: `logsumexp(z) mean over the k largest of s_i cos(f, f_i)`, s_i the energy of sample i.

    Higher = more in-distribution. Any real number, in squared units of the logits.

    Parameters
    ----------
    k : int
        How many neighbours; 10 in the paper for ImageNet.
    bank : int
        At most this many training samples are kept, chosen by a hash of their index; 1 % of ImageNet in the paper.

    Raises
    ------
    SettingError
        `k` is below 1 or above `bank`.
    InputError
        Fewer than `k` samples were seen.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> NNGuide(k=5).fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "nnguide"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS
    assumes: ClassVar = (
        SOFTMAX,
        TellsApart(),
    )
    paper: ClassVar = Paper("Nearest Neighbor Guidance for Out-of-Distribution Detection", "ICCV 2023", "2309.14888")
    presets: ClassVar = {"imagenet": Preset({"k": 10, "bank": 12_812}, "the paper's ImageNet experiments")}
    tunable: ClassVar = {"k": (1, 5, 10, 20, 50, 100, 200)}
    neighbours: Fitted[Float[Tensor, "N D"]]

    def __init__(self, *, k: Count = 10, bank: Count = 12_812) -> None:
        super().__init__()
        if k > bank:
            raise SettingError(f"`k` must be at most `bank`, {bank}; got {k}.")
        self.k = k
        self.bank = bank

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of directions weighted by energy."""
        return {"bank": Reservoir(self.bank, ConfidentDirections())}

    def estimate(self, head: Head, bank: Reservoir) -> None:
        """Keep the sample."""
        rows = bank.rows
        if len(rows) < self.k:
            raise InputError(f"NNGuide(k={self.k}) needs at least {self.k} training samples; {len(rows)} were seen.")
        self.neighbours = rows.contiguous()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Guided energy (N,)."""
        guidance = (normalize(activations.features) @ self.neighbours.T).topk(self.k, dim=1).values.mean(1)
        return activations.logits.logsumexp(1) * guidance
