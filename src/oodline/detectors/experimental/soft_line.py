"""LINe that prunes by half: what the predicted class does not need counts less, and not nothing. Ours."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from oodline._util.ranges import Fraction
from oodline.detectors.base import Detector
from oodline.detectors.line import LINe
from oodline.detectors.parts.bound import Bound
from oodline.detectors.parts.masked_linear import masked_linear
from oodline.model.activations import Activations


class SoftLINe(LINe):
    """LINe in which a pruned weight counts `keep` of itself: `logsumexp(keep (W h + b) + (1 - keep) z)`.

    z are LINe's logits and h the clipped features. LINe fails on OOD inputs near the training data because the
    runner-up classes lose the evidence that would give such an input away: what matters to them alone is pruned. Here
    it stays, at a discount. With `keep=0` it is LINe. Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    keep : float
        In [0, 1): how much a pruned weight counts.
    p_a, p_w, clip, contribution, route, unseen, scorer
        As in `LINe`. The defaults are those of a few that tell held-out ID images best from pseudo-outliers.

    Raises
    ------
    SettingError, LabelError
        As `LINe`, or `keep` is outside its range.

    Warns
    -----
    FewSamplesWarning
        As `LINe`.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> SoftLINe().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "soft-line"
    presets: ClassVar = {}
    experimental: ClassVar = (
        "no publication describes it; measured on four classifiers, where it gains most near the training data"
    )
    keep: float

    def __init__(
        self,
        *,
        keep: Fraction = 0.5,
        p_a: Fraction = 0.5,
        p_w: Fraction = 0.5,
        clip: Bound = "98%",
        contribution: Literal["signed", "absolute"] = "absolute",
        route: Literal["clipped", "full"] = "clipped",
        unseen: Literal["error", "dense"] = "error",
        scorer: Detector | None = None,
    ) -> None:
        settings: dict[str, Any] = {"contribution": contribution, "route": route, "unseen": unseen, "scorer": scorer}
        super().__init__(p_a=p_a, p_w=p_w, clip=clip, **settings)
        self.keep = keep

    def rectify(self, activations: Activations) -> Activations:
        """Clip the features and recompute the logits, pruned weights counting `keep`."""
        head = activations.head
        clipped, predicted = self._routed(activations)
        first = head.linear
        pruned = masked_linear(clipped, first.weight, first.bias, self.threshold, predicted)
        whole: Tensor = clipped @ first.weight.T + first.bias
        return activations.replace(features=clipped, logits=head.finish(self.keep * whole + (1 - self.keep) * pruned))
