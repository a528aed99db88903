"""`Shuffle`: outliers whose most salient pixels have changed places (ASCOOD; Regmi, CVPR 2026)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Share
from oodline.training.forward import Forward
from oodline.training.outlier_maker import OutlierMaker, check_images, saliency, top


class Shuffle(OutlierMaker):
    """One outlier per image: some of its pixels, all channels of each, are permuted among themselves.

    The pixels are the salient ones, those with the largest sum over channels of `exp(g)`, g being the gradient of the
    logit of the label (`by="saliency"`, the paper's method); or random ones. The published numbers for CIFAR-10 come
    from a run that is named "p0.2 shuffle random", that is, of random pixels. Random ones cost no pass.

    Parameters
    ----------
    fraction : float
        Of the pixels, in [0, 1]; rounded down.
    by : {"saliency", "random"}
        Which pixels.

    Examples
    --------
    >>> from oodline.testing import toy_network
    >>> images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    >>> outliers = Shuffle(fraction=0.5)(Forward(toy_network()), images, labels)
    >>> torch.equal(outliers.flatten(2).sum(2), images.flatten(2).sum(2)) or outliers.shape
    torch.Size([2, 3, 8, 8])
    """

    @checked
    def __init__(self, *, fraction: Share = 0.1, by: Literal["saliency", "random"] = "saliency") -> None:
        self.fraction, self.by = fraction, by

    def __call__(self, forward: Forward, inputs: Tensor, labels: Tensor) -> Tensor:
        """Outliers (N, C, H, W)."""
        images = check_images(inputs, self).detach()
        flat = images.flatten(2)
        if self.by == "saliency":
            rank = saliency(forward, images, labels).exp().sum(1).flatten(1)
        else:
            rank = torch.rand(len(flat), flat.shape[2], device=images.device)
        places = top(rank, int(flat.shape[2] * self.fraction))
        order = torch.rand(places.shape, device=images.device).argsort(1)
        to, source = (p.unsqueeze(1).expand(-1, flat.shape[1], -1) for p in (places, places.gather(1, order)))
        return flat.scatter(2, to, flat.gather(2, source)).view_as(images)
