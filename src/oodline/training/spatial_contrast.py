"""ALPA: samples of a class agree place by place, found by cross-attention (MODE; Zhang et al., IEEE TIP 2023)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import Count, NonNegative, Positive
from oodline.detectors.paper import Paper, Preset
from oodline.errors import InputError
from oodline.model.activations import Needs
from oodline.training.batches import MixedBatch
from oodline.training.cross_entropy import CrossEntropy
from oodline.training.loss import TrainingLoss


class SpatialContrast(TrainingLoss):
    """Loss of the ID samples + `weight` times a supervised contrastive loss of feature maps.

    Two maps are compared place by place: queries of one attend to the places of the other, and the similarity of a
    place is the cosine between its own value and the value that it attends to; the similarity s of two maps is the mean
    over places, added for both directions. The contrastive loss is the mean over samples i of
    `-mean over p of log(exp(t s_ip) / sum over j != i of exp(t s_ij))`, p being the other samples of i's class. A
    sample that is alone of its class adds 0, so a batch needs two of a class.

    Queries, keys and values are projections of two layers that training drops. Time and memory grow with the square of
    batch size and of places. Distances of features gain from it, more than the logits do. The authors fine-tune by the
    contrastive term alone, which leaves the head where it is: pass `alone=True` for that, and fit a detector that reads
    features alone. Their released script does not run, so no number of theirs was compared. Needs no outliers.

    Parameters
    ----------
    channels : int
        K of the feature map (N, K, H, W).
    inner : int
        Outputs of the projections.
    scale : float
        t, an inverse temperature, above 0.
    weight : float
        Of the contrastive term, at least 0.
    base : TrainingLoss, optional
        Loss of the ID samples; plain cross-entropy if omitted.
    alone : bool
        Leave that loss out.

    Raises
    ------
    InputError
        The feature map has another number of channels.

    Examples
    --------
    >>> from oodline.testing import toy_network
    >>> from oodline.training import Forward
    >>> loss = SpatialContrast(channels=16)
    >>> activations = Forward(toy_network())(torch.rand(4, 3, 8, 8), loss.needs)
    >>> loss(activations, torch.tensor([0, 0, 1, 1])).requires_grad
    True
    """

    name: ClassVar = "spatial-contrast"
    needs: ClassVar = Needs.LOGITS | Needs.FEATURE_MAP
    paper: ClassVar = Paper(
        "From Global to Local: Multi-scale Out-of-Distribution Detection", "IEEE TIP 2023", "2308.10239"
    )
    presets: ClassVar = {
        "cifar": Preset({"inner": 80, "scale": 10.0, "weight": 1.0}, "the authors' code, commit 23a3a20")
    }

    @checked
    def __init__(
        self,
        *,
        channels: Count,
        inner: Count = 80,
        scale: Positive = 10.0,
        weight: NonNegative = 1.0,
        base: TrainingLoss | None = None,
        alone: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.scale, self.weight = channels, scale, weight
        self.base = None if alone else base or CrossEntropy()
        self.query, self.key, self.value = (_projection(channels, inner) for _ in range(3))

    def compute(self, batch: MixedBatch) -> Tensor:
        """The ID part and the contrast."""
        maps = batch.inliers.require_feature_map()
        if maps.shape[1] != self.channels:
            raise InputError(f"`channels` must be those of the feature map, {maps.shape[1]}; got {self.channels}.")
        contrast = contrastive(self.scale * self.similarity(maps), batch.inlier_labels)
        return self.weight * contrast + (0 if self.base is None else self.base.compute(batch))

    def similarity(self, maps: Float[Tensor, "n k h w"]) -> Float[Tensor, "n n"]:
        """Similarity of every two maps, symmetric, in [-2, 2]."""
        places = maps.flatten(2).transpose(1, 2)
        query, key, value = self.query(places), self.key(places), self.value(places)
        size = (len(maps), len(maps), -1, -1)
        attended = nn.functional.scaled_dot_product_attention(
            query.unsqueeze(1).expand(size), key.unsqueeze(0).expand(size), value.unsqueeze(0).expand(size)
        )
        one_way = nn.functional.cosine_similarity(value.unsqueeze(1), attended, dim=-1).mean(-1)
        return one_way + one_way.T


def contrastive(similarities: Float[Tensor, "n n"], labels: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, Eq. 2) of scaled similarities; 0 for one of its kind.

    Examples
    --------
    >>> round(float(contrastive(torch.zeros(4, 4), torch.tensor([0, 0, 1, 1])).exp()), 4)  # one of three others
    3.0
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    alike = (labels.unsqueeze(1) == labels) & ~itself
    log_share = similarities - similarities.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    others = alike.sum(1)
    each = torch.where(alike, log_share, 0).sum(1) / others.clamp(min=1)
    return -each.mean()


def _projection(channels: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels, bias=False), nn.ReLU(), nn.Linear(channels, inner, bias=False))
