"""OpenMax: activations revised by how extreme their distance to the class is (Bendale and Boult, CVPR 2016, Alg. 2)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from oodline._util.ranges import Count
from oodline.detectors.assumptions import LABELLED, PerClass, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.sample_size import sample_size
from oodline.errors import LabelError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Logits, Reservoir, Statistic

TRANSLATION = 10_000.0
"""Added to distances before the Weibull fit, as in the library of the authors, whose results depend on it a little."""


def weibull_of_tail(distances: NDArray[np.float64], size: int) -> tuple[float, float, float]:
    """Weibull distribution of the largest distances by maximum likelihood.

    Returns
    -------
    tuple of float
        The smallest distance of the tail m, the shape k and the logarithm l of the scale, so that the probability of
        a distance below d is `1 - exp(-exp(k (log1p((d - m) / TRANSLATION) - l)))`.
    """
    tail = np.sort(distances)[-size:]
    y = np.log1p((tail - tail[0]) / TRANSLATION)
    below = y - y[-1]

    def excess(k: float) -> float:
        weight = np.exp(k * below)
        return float((weight * below).sum() / weight.sum() - 1 / k - below.mean())

    # the derivative of the likelihood has one zero, and grows through it; distances that are all equal have none
    low, high = 1e-3, 1e12
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    scale = y[-1] + np.log(np.exp(low * below).mean()) / low
    return float(tail[0]), low, float(scale)


class OpenMax(Detector):
    """Log odds of a known class: `logsumexp(z') - z'_0`, after the share of outlier of the top classes moved to z'_0.

    Of the `alpha` largest logits, the i-th is revised to `z (1 - w (alpha + 1 - i) / alpha)` and what it loses is added
    to the unknown class, `z'_0`; w is the probability, by a Weibull distribution of the largest distances, that a
    training sample of the class lies nearer to its mean logits. Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    tail : int
        How many of the largest distances of a class are extreme.
    alpha : int
        How many of the largest logits are revised; all where there are fewer. 10 in the paper, for 1,000 classes;
        OpenOOD takes 3, which is better on 10 classes.
    samples : int
        Training samples that are kept to estimate from, chosen by a hash of their index; of more than 6,710 classes
        fewer, `2**26 / C`.

    Raises
    ------
    SettingError
        A setting is below 1.
    LabelError
        No training sample was classified correctly.

    Notes
    -----
    Means and distances are those of training samples that are classified correctly; a class without any is fully an
    outlier. The paper's distance may be mixed with a cosine; this is the Euclidean one.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> OpenMax().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "openmax"
    needs: ClassVar = Needs.LOGITS
    assumes: ClassVar = (LABELLED, PerClass("tail", "a tail of the largest distances"), TellsApart(below=0.08))
    paper: ClassVar = Paper("Towards Open Set Deep Networks", "CVPR 2016", "1511.06233")
    presets: ClassVar = {
        "imagenet": Preset({"tail": 20, "alpha": 10}, "the paper's ImageNet experiments"),
        "cifar10": Preset({"tail": 20, "alpha": 3}, "OpenOOD, openmax_postprocessor.py"),
    }
    means: Fitted[Float[Tensor, "C C"]]
    smallest: Fitted[Float[Tensor, " C"]]
    shape: Fitted[Float[Tensor, " C"]]
    log_scale: Fitted[Float[Tensor, " C"]]

    def __init__(self, *, tail: Count = 20, alpha: Count = 10, samples: Count = 10_000) -> None:
        super().__init__()
        self.tail = tail
        self.alpha = alpha
        self.samples = samples

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the logits, with label."""
        return {"sample": Reservoir(sample_size(self.samples, head.num_classes), Logits(), by="correct")}

    def estimate(self, head: Head, sample: Reservoir) -> None:
        """Fit the tail of the distances of each class."""
        logits, groups = sample.rows.double(), sample.groups
        classes = logits.shape[1]
        means = torch.zeros(classes, classes, dtype=torch.float64)
        fits = torch.tensor([[0.0, 1.0, -torch.inf]], dtype=torch.float64).repeat(classes, 1)
        for c in torch.unique(groups[groups < classes]).tolist():
            own = logits[groups == c]
            means[c] = own.mean(0)
            distances = torch.linalg.vector_norm(own - means[c], dim=1)
            fits[c] = torch.tensor(weibull_of_tail(distances.numpy(), self.tail), dtype=torch.float64)
        if bool((fits[:, 2] == -torch.inf).all()):
            raise LabelError(
                f"none of the {len(groups)} sampled images is classified correctly, so OpenMax has no class to measure "
                "distances from. Look whether the labels are in the order of the logits."
            )
        self.means = means.float()
        # kept in double precision: the shape is in the thousands, and multiplies a difference of small numbers
        self.smallest, self.shape, self.log_scale = fits.T.unbind()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Log odds of a known class (N,)."""
        logits = activations.logits.double()
        count = min(self.alpha, logits.shape[1])
        top = logits.sort(dim=1, descending=True, stable=True).indices[:, :count]
        distance = torch.linalg.vector_norm(logits.unsqueeze(1) - self.means.double()[top], dim=2)
        # distances below the smallest of the tail by more than the translation are of probability zero
        y = torch.log1p(((distance - self.smallest[top]) / TRANSLATION).clamp(min=-1 + 1e-12))
        outlier = -torch.expm1(-torch.exp(self.shape[top] * (y - self.log_scale[top])))
        rank = torch.arange(count, 0, -1, device=logits.device) / count
        lost = logits.gather(1, top) * outlier * rank
        known = logits.scatter_add(1, top, -lost)
        return known.logsumexp(1) - lost.sum(1)
