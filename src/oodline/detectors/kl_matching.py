"""KL matching: distance of the posterior to the typical posterior of a class (Hendrycks et al., ICML 2022, Sec. 3)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.assumptions import SOFTMAX, PerClass, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Probabilities, Statistic


class KLMatching(Detector):
    """Negative divergence to the nearest class template: `-min_k KL(softmax(z) || d_k)`. Higher = more in-distribution.

    `d_k` is the mean softmax over the ID samples *predicted* as k; no labels are needed, and classes that were never
    predicted have no template and are passed over. Range: (-inf, 0], in nats.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> detector = KLMatching().fit(*toy_problem())
    >>> detector.log_templates.exp().sum(1).allclose(torch.ones(3))
    True
    """

    name: ClassVar = "kl-matching"
    needs: ClassVar = Needs.LOGITS
    assumes: ClassVar = (SOFTMAX, PerClass(10, "a mean of each class"), TellsApart(below=0.08))
    paper: ClassVar = Paper("Scaling Out-of-Distribution Detection for Real-World Settings", "ICML 2022", "1911.11132")
    log_templates: Fitted[Float[Tensor, "T C"]]

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Mean probabilities by predicted class."""
        return {"posterior": ClassMoments(Probabilities(), by="predicted")}

    def estimate(self, head: Head, posterior: ClassMoments) -> None:
        """Take the logarithm of the templates that exist."""
        templates = posterior.mean[posterior.count > 0]
        # a probability that underflowed in every sample must not make the divergence infinite
        self.log_templates = templates.clamp(min=torch.finfo(torch.float32).tiny).log().float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative divergence to the nearest template (N,), in nats."""
        log_p = activations.logits.log_softmax(1)
        p = log_p.exp()
        cross = p @ self.log_templates.T
        return -((p * log_p).sum(1, keepdim=True) - cross).amin(1)
