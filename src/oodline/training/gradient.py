"""`Gradient`: outliers moved along the gradient of their label, where it is largest (ASCOOD; Regmi, CVPR 2026)."""

from __future__ import annotations

from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import NonNegative, Share
from oodline.training.forward import Forward
from oodline.training.outlier_maker import OutlierMaker, saliency, top


class Gradient(OutlierMaker):
    """One outlier per sample: `x + alpha g`, at the elements where `|g|` is largest.

    g is the gradient of the logit of the label. alpha falls linearly from `alpha` to `alpha_end`, by `progress`.

    Parameters
    ----------
    fraction : float
        Of the elements of a sample, in [0, 1]; rounded down.
    alpha : float
        At the start of the training, at least 0, in the units of prepared inputs over those of the gradient. In the
        authors' code 300 for Waterbirds, and 0.1 for Aircraft and Cars.
    alpha_end : float, optional
        At its end; 30 for Waterbirds. `alpha` if omitted.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> images, labels = loader[0]
    >>> outliers = Gradient(fraction=0.25, alpha=1.0)(Forward(classifier.model), images, labels)
    >>> (outliers != images).sum(1).unique()  # one element of four
    tensor([1])
    """

    @checked
    def __init__(
        self, *, fraction: Share = 0.1, alpha: NonNegative = 300.0, alpha_end: NonNegative | None = None
    ) -> None:
        self.fraction, self.alpha = fraction, alpha
        self.alpha_end = alpha if alpha_end is None else alpha_end

    def __call__(self, forward: Forward, inputs: Tensor, labels: Tensor) -> Tensor:
        """Outliers, of the shape of the inputs."""
        flat = inputs.detach().flatten(1)
        slope = saliency(forward, inputs, labels).flatten(1)
        places = top(slope.abs(), int(flat.shape[1] * self.fraction))
        alpha = scheduled(self.alpha, self.alpha_end, self.progress)
        return flat.scatter_add(1, places, alpha * slope.gather(1, places)).view_as(inputs)


def scheduled(first: float, last: float, progress: float) -> float:
    """A value that goes linearly from the first to the last.

    Examples
    --------
    >>> scheduled(300, 30, 0.5)
    165.0
    """
    return (first - last) * (1 - progress) + last
