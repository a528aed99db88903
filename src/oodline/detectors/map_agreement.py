"""`MapAgreement`: whether the neurons of the class and those of the image look at the same places (WWW, CVPR 2024)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Count
from oodline.detectors.assumptions import PerClass, Rectified
from oodline.detectors.base import Detector
from oodline.detectors.evidence import require_linear
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Statistic


def top_weights(contribution: Float[Tensor, "n d"], neurons: int) -> Float[Tensor, "n d"]:
    """The largest contributions of each row and 0 elsewhere; what speaks against the class counts as 0.

    Examples
    --------
    >>> top_weights(torch.tensor([[3.0, 1.0, 2.0, -5.0]]), 2)
    tensor([[3., 0., 2., 0.]])
    """
    values, places = contribution.topk(min(neurons, contribution.shape[1]), dim=1)
    return torch.zeros_like(contribution).scatter(1, places, values.clamp(min=0))


def cosine(one: Float[Tensor, "n p"], other: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Cosine of each pair of rows (N,), 0 where one of them is 0; rows of any size, without overflow.

    Examples
    --------
    >>> cosine(torch.tensor([[3e30, 0.0], [0.0, 0.0]]), torch.tensor([[3e30, 3e30], [1.0, 1.0]]))
    tensor([0.7071, 0.0000])
    """
    return (_unit(one) * _unit(other)).sum(1)


def _unit(rows: Tensor) -> Tensor:
    largest = rows.abs().amax(1, keepdim=True)
    scaled = rows / torch.where(largest > 0, largest, 1.0)
    norm = scaled.norm(dim=1, keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1.0)


class MapAgreement(Detector):
    """Cosine of the class's map and the image's own map, over the places of the feature map.

    For the predicted class c, `S[c, d] = W[c, d] mean_c(f_d)` is what neuron d contributes to its training images, and
    `s[d] = W[c, d] f[d]` what it contributes to this image. The class map is the sum of `S[c, d] A_d` over the neurons
    of the largest S, the image map that of `s[d] A_d` over those of the largest s; A_d is the feature map of neuron d.
    Of an image that shows what its class usually shows, both weigh the same neurons, and are alike. Higher = more
    in-distribution. Range: [-1, 1], no unit.

    Parameters
    ----------
    neurons : int
        Neurons of each map, at least 1. The authors' code has 5, and runs 3.

    Raises
    ------
    HeadError
        The classifier has no feature map, or the head has several layers.
    LabelError
        A class has no sample.

    Notes
    -----
    The paper's weights are divided by their sum, which may be 0 or less; a cosine does not depend on their size, and a
    neuron that speaks against the class has the weight 0 here. A map that is 0 everywhere gives 0.

    Examples
    --------
    >>> from oodline import Classifier, score
    >>> from oodline.testing.toys import toy_network
    >>> images, labels = torch.rand(12, 3, 8, 8), torch.arange(12) % 3
    >>> classifier = Classifier(toy_network())
    >>> detector = MapAgreement().fit(classifier, [(images, labels)])
    >>> score(detector, classifier, [images])["map-agreement"].shape
    torch.Size([12])
    """

    name: ClassVar = "map-agreement"
    needs: ClassVar = Needs.FEATURE_MAP | Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (Rectified(), PerClass(10, "an estimate of each class"))
    paper: ClassVar = Paper(
        "WWW: A Unified Framework for Explaining What, Where and Why of Neural Networks", "CVPR 2024"
    )
    tunable: ClassVar = {"neurons": (5, 3, 10, 20)}
    contribution: Fitted[Float[Tensor, "C D"]]

    def __init__(self, *, neurons: Count = 5) -> None:
        super().__init__()
        self.neurons = neurons

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means of the features."""
        return {"features": ClassMoments()}

    def estimate(self, head: Head, features: ClassMoments) -> None:
        """Keep the mean contributions."""
        features.check_every_class()
        self.contribution = (features.mean * require_linear(head).weight.cpu().double()).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Agreement of the two maps (N,)."""
        maps = activations.require_feature_map().flatten(2)
        largest = maps.abs().amax((1, 2), keepdim=True)
        maps = maps / torch.where(largest > 0, largest, 1.0)  # products of very small ones would be 0
        scale = largest.flatten(1)
        predicted = activations.logits.argmax(1)
        own = require_linear(activations.head).weight[predicted] * activations.features
        own = own / torch.where(scale > 0, scale, 1.0)
        class_map = torch.einsum("nd,ndp->np", top_weights(self.contribution[predicted], self.neurons), maps)
        return cosine(class_map, torch.einsum("nd,ndp->np", top_weights(own, self.neurons), maps))
