"""LINe: Leveraging Important Neurons (Ahn, Park and Kim, CVPR 2023), after the authors' code (commit 465ddf5).

For the predicted class c, keep only the neurons and the weights whose Shapley contribution matters (Sec. 3.2), clip
activations so that the number of active class features counts rather than their size (Sec. 3.3), and read the energy of
what remains.

Both masks of a class are one threshold per neuron. A weight survives when `|S[c,d]| W[k,d] > t[c]`, that is when
`W[k,d] > t[c] / |S[c,d]|`, and no weight of a pruned neuron does, which is a threshold of infinity. So the fitted
state is a matrix (C, D), never a mask (C, C, D).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from oodline._util.ranges import Fraction
from oodline._util.warning import warn
from oodline.detectors.assumptions import PREDICTED, LeavesMost, Rectified
from oodline.detectors.base import Detector
from oodline.detectors.evidence import Evidence, require_linear
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.bound import Bound, Threshold, check_largest
from oodline.detectors.parts.masked_linear import masked_linear
from oodline.detectors.parts.products import product_percentiles, sorted_columns
from oodline.detectors.rectifier import Rectifier, check_scorer_reads_logits
from oodline.errors import FewSamplesWarning, LabelError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head, LinearHead
from oodline.statistics import ClassMoments, Contributions, Quantiles, Statistic

FEW_SAMPLES = 10
"""Below this many samples of a class, `fit` warns that its mean contribution is mostly noise."""

BLOCK = 64
"""Classes whose thresholds are found at once: a few MB."""

UNSEEN = ", or, where it is a background class that no image shows, keep all its neurons: line,unseen=dense"
"""What else can be done about a class without samples, for the error that names it."""


def weight_thresholds(
    contribution: Float[Tensor, "c d"], weight: Float[Tensor, "k d"], p_a: float, p_w: float, *, absolute: bool
) -> Float[Tensor, "c d"]:
    """For each class c and neuron d, the value above which a weight `W[k, d]` is kept.

    Parameters
    ----------
    contribution : Tensor (C, D), float64
        S, the mean contribution of each neuron to each class.
    weight : Tensor (K, D), float32
        W, the layer that reads the features.
    p_a, p_w : float
        Fractions of neurons and of weights to prune, in [0, 1).
    absolute : bool
        Rank the neurons by `|S|` in place of S.

    Returns
    -------
    Tensor (C, D), float32
        `W[k, d] > threshold[c, d]` holds exactly where, in float64, neuron d is kept for class c and
        `|S[c, d]| W[k, d] > percentile(|S[c, :]| W, 100 p_w)`.
    """
    columns = sorted_columns(weight.cpu().float())
    thresholds = torch.empty(contribution.shape)
    for start in range(0, len(contribution), BLOCK):
        rows = slice(start, start + BLOCK)
        S = contribution[rows].cpu().double().numpy()
        ranked = np.abs(S) if absolute else S
        kept = ranked > np.quantile(ranked, p_a, axis=1, keepdims=True)
        t = product_percentiles(np.abs(S), columns, p_w)
        thresholds[rows] = torch.from_numpy(np.where(kept, _quotients(np.abs(S), t[:, None]), np.float32(np.inf)))
    return thresholds


def _quotients(size: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float32]:
    """A float32 is above the quotient (N, D) exactly where its product with `size` is above `t`."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = np.where(size > 0, t / size, np.where(t < 0, -np.inf, np.inf)).astype(np.float32)
        # the quotient was rounded twice: step down where the rounded value itself should have been kept
        above = np.isfinite(quotient) & (size * quotient.astype(np.float64) > t)
        return np.where(above, np.nextafter(quotient, np.float32(-np.inf)), quotient)


class LINe(Rectifier):
    """Energy of the logits that the important neurons and weights of the predicted class give.

    With `S[c, d] = W[c, d] mean_c(f_d)`, the mean taken over ID training images labelled c, and `h = min(f, clip)`:
    the class is `c = argmax(W h + b)`, the logits `z[k] = sum_d W[k, d] M[c, k, d] A[c, d] h[d] + b[k]`, the score
    `logsumexp(z)`, where

    - `A[c, d] = [S[c, d] > percentile(S[c, :], 100 p_a)]` keeps neurons (Eq. 4),
    - `M[c, k, d] = [|S[c, d]| W[k, d] > percentile over (k, d), 100 p_w]` keeps weights (Eq. 5).

    Higher = more in-distribution; units of the logits.

    Parameters
    ----------
    p_a, p_w : float
        Fraction of the neurons, and of the weights, that is pruned, in [0, 1).
    clip : float or str
        Largest activation that counts, above 0, or the percentile of all training activations that gives it ("98%").
    contribution : {"signed", "absolute"}
        What ranks the neurons: S, as in the code that made the published numbers, or `|S|`, as in the paper's Eq. 4.
    route : {"clipped", "full"}
        Which features choose the class: the clipped ones, as in the code, or the full ones.
    unseen : {"error", "dense"}
        What becomes of a class without training samples: an error, or all its neurons and weights are kept (a network
        with a background class that no data set shows needs this).
    scorer : Detector, optional
        Scores the masked logits, reading nothing else; energy by default.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        A class has no sample, or contributions so equal that no neuron would be kept.

    Warns
    -----
    FewSamplesWarning
        A class has fewer than `FEW_SAMPLES` samples, or none.

    Notes
    -----
    The paper's settings are presets: `LINe.preset("cifar10-densenet100")`, `"cifar100-densenet100"`, and
    `"imagenet-resnet50"`, whose p_a and p_w are the defaults here. Its clip, 0.8, belongs to that network: the default
    is a percentile, which means the same for any.

    On a head of several layers S is the mean of feature times gradient of the labelled logit, and M masks the first
    layer, the one that reads the features; the paper does not treat this case.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = LINe(p_a=0.5, p_w=0.5).fit(classifier, loader)
    >>> detector(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "line"
    needs: ClassVar = Needs.FEATURES | Needs.HEAD
    assumes: ClassVar = (PREDICTED, Rectified(), LeavesMost())
    paper: ClassVar = Paper(
        "LINe: Out-of-Distribution Detection by Leveraging Important Neurons", "CVPR 2023", "2303.13995"
    )
    presets: ClassVar = {
        "cifar10-densenet100": Preset({"p_a": 0.9, "p_w": 0.9, "clip": 1.0}, "the authors' code, commit 465ddf5"),
        "cifar100-densenet100": Preset({"p_a": 0.1, "p_w": 0.9, "clip": 1.0}, "the authors' code, commit 465ddf5"),
        "imagenet-resnet50": Preset({"p_a": 0.1, "p_w": 0.1, "clip": 0.8}, "the authors' code, commit 465ddf5"),
    }
    tunable: ClassVar = {
        "p_a": (0.0, 0.1, 0.5, 0.9),
        "p_w": (0.0, 0.1, 0.5, 0.9),
        "clip": ("100%", "99%", "98%", "95%", "90%", "80%"),
    }
    contribution_: Fitted[Float[Tensor, "C D"]]
    largest: Fitted[Float[Tensor, ""]]
    threshold: Fitted[Float[Tensor, "C D"]]

    def __init__(
        self,
        *,
        p_a: Fraction = 0.1,
        p_w: Fraction = 0.1,
        clip: Bound = "98%",
        contribution: Literal["signed", "absolute"] = "signed",
        route: Literal["clipped", "full"] = "clipped",
        unseen: Literal["error", "dense"] = "error",
        scorer: Detector | None = None,
    ) -> None:
        super().__init__(scorer)
        check_scorer_reads_logits(self)
        self._clip = Threshold.of(clip)
        check_largest("clip", self._clip.value)
        self.p_a = p_a
        self.p_w = p_w
        self.clip = clip
        self.contribution = contribution
        self.route = route
        self.unseen = unseen

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means of the features, or of activation times gradient where the head has several layers."""
        moments = ClassMoments() if isinstance(head, LinearHead) else ClassMoments(Contributions())
        return {"moments": moments, **self._clip.statistics()}

    def estimate(self, head: Head, moments: ClassMoments, activations: Quantiles | None = None) -> None:
        """Turn class means into contributions and thresholds."""
        seen = moments.count > 0
        if self.unseen == "error":
            moments.check_every_class(otherwise=UNSEEN)
        weight = head.linear.weight.cpu().float()
        # float64 times float32 is float64 without a copy of the weights in it: 358 MB for 21,841 classes
        S = moments.mean * weight if isinstance(head, LinearHead) else moments.mean
        absolute = self.contribution == "absolute"
        if bool(seen.all()):
            threshold = weight_thresholds(S, weight, self.p_a, self.p_w, absolute=absolute)
        else:
            threshold = torch.full(S.shape, -torch.inf)
            threshold[seen] = weight_thresholds(S[seen], weight, self.p_a, self.p_w, absolute=absolute)
        _check_something_is_kept(threshold, moments)
        _warn_of_few_samples(moments)
        self.contribution_ = S.float()
        self.largest = self._clip.estimate(activations)
        check_largest("clip", float(self.largest))
        self.threshold = threshold

    def rectify(self, activations: Activations) -> Activations:
        """Clip the features and recompute the logits with the neurons and weights that are left."""
        head = activations.head
        clipped, predicted = self._routed(activations)
        first = head.linear
        hidden = masked_linear(clipped, first.weight, first.bias, self.threshold, predicted)
        return activations.replace(features=clipped, logits=head.finish(hidden))

    def evidence(self, activations: Activations) -> Evidence:
        """What speaks for the class that each input is judged as: the score reads its important neurons, clipped.

        Raises
        ------
        HeadError
            The head has several layers.
        """
        weight = require_linear(activations.head).weight
        clipped, predicted = self._routed(activations)
        return Evidence(
            predicted_class=predicted,
            expected=self.contribution_[predicted],
            found=weight[predicted] * activations.features,
            counted=weight[predicted] * clipped,
            important=self.threshold[predicted] < torch.inf,
        )

    def _routed(self, activations: Activations) -> tuple[Tensor, Tensor]:
        clipped = activations.features.minimum(self.largest)
        routed = activations.head(clipped) if self.route == "clipped" else activations.logits
        return clipped, routed.argmax(1)


def _check_something_is_kept(threshold: Tensor, moments: ClassMoments) -> None:
    empty = torch.nonzero((threshold == torch.inf).all(1)).flatten().tolist()
    if empty:
        raise LabelError(
            f"no neuron is left for class {empty[0]} ({int(moments.count[empty[0]])} samples): the contributions of "
            f"its {threshold.shape[1]} neurons are equal, or tied at the percentile, so that none is above it. Look "
            "for a dead layer before the head or constant images of that class, or prune less."
        )


def _warn_of_few_samples(moments: ClassMoments) -> None:
    count = moments.count
    few = torch.nonzero((count > 0) & (count < FEW_SAMPLES)).flatten()
    if bool((count == 0).any()):
        none = torch.nonzero(count == 0).flatten().tolist()
        names = ", ".join(map(str, none[:10])) + (", ..." if len(none) > 10 else "")
        warn(
            f"{len(none)} of {len(count)} classes have no sample, and LINe keeps all their neurons: {names}. Fit on "
            "data that shows every class the head knows, where there is any.",
            FewSamplesWarning,
        )
    if len(few):
        fewest = int(few[count[few].argmin()])
        warn(
            f"{len(few)} of {len(count)} classes have fewer than {FEW_SAMPLES} samples (class {fewest} has "
            f"{int(count[fewest])}): LINe's contributions rest on means of so few images and are noisy. Fit on more "
            "images per class.",
            FewSamplesWarning,
        )
