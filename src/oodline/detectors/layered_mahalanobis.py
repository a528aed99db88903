"""Layered Mahalanobis: the distances of Lee et al. (NeurIPS 2018) at several depths, as p-values, combined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.warning import warn
from oodline.detectors.fitted import Fitted
from oodline.detectors.mahalanobis import SMALLEST_SPREAD, whitening
from oodline.detectors.paper import Paper
from oodline.detectors.parts.combining import fisher
from oodline.detectors.parts.layered import Layered, Layers
from oodline.detectors.parts.p_values import log_p_values, scale_of
from oodline.errors import FewSamplesWarning, InputError, LabelError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.model.layers import Pool, PooledLayer
from oodline.statistics import Covariance, Reservoir, Statistic

SIZE = 1000
"""Training samples whose left-out distances are the reference, at most."""

FEWEST = 10
"""Reference samples that say something of a tail."""

TIMES = 2
"""Samples for each value of a layer that its covariance needs, at least."""

SMALLEST_REST = 1e-9
"""Fraction of the variance along a sample that the others have, at least; with fewer samples than channels it is 0."""


class LayeredMahalanobis(Layered):
    """Distances to the nearest class mean at several depths, each as a p-value: `sum_l log p_l`.

    `d_l = min_c (f_l - mu_lc)' P_l (f_l - mu_lc)` on the pooled output f_l of layer l, with class means mu_lc and the
    (pseudo-)inverse P_l of the covariance around them, pooled over the classes (Eq. 2 of the paper); p_l says how usual
    d_l is among ID samples in that layer, and Fisher's rule combines the L p-values: nothing is fitted on OOD data, as
    the paper's weights are. The ID distances are those of at most 1,000 training samples, each to means and covariance
    of all others, exactly and without fitting again, so that p-values of new ID data are uniform. OpenMIBOOD (Gutbrod
    et al., CVPR 2025) calls a sum of such distances MDSEns, and shows its worth on medical images. Higher = more
    in-distribution. Range: (-inf, 0), no unit.

    Early layers see how an image was taken. So it also flags what changes that and no class: another scanner, stain,
    camera or compression. Measure it on covariate-shifted ID data before you rely on it.

    Parameters
    ----------
    layers : sequence of str or "auto"
        Modules of the classifier. If omitted, `fit` takes four depths from the structure of the network, which are then
        the setting.
    pool : {"mean", "mean-std", "cls"}
        What is read of each: the mean of each channel over space or tokens, that and the standard deviation, or the
        first token; see `oodline.model.layers`.

    Raises
    ------
    SettingError
        A setting is out of range.
    HeadError
        A layer does not exist, is not run, or returns no tensor, or "cls" of what are not tokens.
    LabelError
        A class has no sample, or no class has two different ones, so that there is no covariance.
    InputError
        Fewer than 10 samples were seen.

    Warns
    -----
    FewSamplesWarning
        A layer has more values than half of the samples.

    Examples
    --------
    >>> from oodline import score
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> detector = LayeredMahalanobis().fit(classifier, loader)
    >>> detector.layers
    ('0', '1')
    >>> score(detector, classifier, loader)["layered-mahalanobis"].shape
    torch.Size([60])
    """

    name: ClassVar = "layered-mahalanobis"
    needs: ClassVar = Needs.LAYERS
    paper: ClassVar = Paper(
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
        "NeurIPS 2018",
        "1807.03888",
    )
    centre: Fitted[Float[Tensor, " K"]]
    whiten: Fitted[Float[Tensor, " V"]]
    means: Fitted[Float[Tensor, "C K"]]
    scale: Fitted[Float[Tensor, "L Q"]]

    def __init__(self, *, layers: Layers = "auto", pool: Pool = "mean") -> None:
        super().__init__(layers)
        self.pool = pool

    def reading(self, module: str) -> PooledLayer:
        """The pooled output."""
        return PooledLayer(module, self.pool)

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means and pooled covariance of each layer, and a sample of all of them."""
        found: dict[str, Statistic] = {"sample": Reservoir(SIZE, self.rows_of_layers, "label")}
        return found | {f"layer_{i}": Covariance(reading) for i, reading in enumerate(self.readings)}

    def estimate(self, head: Head, sample: Reservoir, **layers: Any) -> None:
        """Whiten the class means of each layer, and take the distances of the sample."""
        covariances: list[Covariance] = [layers[f"layer_{i}"] for i in range(len(layers))]
        covariances[0].moments.check_every_class()
        if len(sample.rows) < FEWEST:
            raise InputError(
                f"LayeredMahalanobis compares its layers on at least {FEWEST} ID samples; {len(sample.rows)} were seen."
            )
        if not any(_varies(covariance) for covariance in covariances):
            raise LabelError(
                f"the covariance within classes is zero in every layer: the {covariances[0].moments.total} samples do "
                "not vary within a class. Fit on at least two images per class."
            )
        self._warn_of_wide_layers(covariances)
        centres, whitens, means, scores, start = [], [], [], [], 0
        for covariance in covariances:
            width = covariance.mean.shape[1]
            centre = covariance.moments.overall_mean
            whiten = covariance.mean.new_zeros(width, width)  # square, so that the widths alone say where it lies
            if _varies(covariance):
                solid = whitening(covariance.pooled())
                whiten[:, : solid.shape[1]] = solid
            rows = sample.rows[:, start : start + width].double()
            scores.append(left_out_scores(rows, sample.groups, covariance, whiten))
            centres.append(centre)
            whitens.append(whiten.flatten())
            means.append((covariance.mean - centre) @ whiten)
            start += width
        self.centre, self.whiten = torch.cat(centres).float(), torch.cat(whitens).float()
        self.means = torch.cat(means, dim=1).float()
        self.scale = scale_of(torch.stack(scores, dim=1).float())

    def _warn_of_wide_layers(self, covariances: Sequence[Covariance]) -> None:
        total = covariances[0].moments.total
        widths = {name: each.mean.shape[1] for name, each in zip(self.layers, covariances, strict=True)}
        wide = {name: width for name, width in widths.items() if total < TIMES * width}
        if wide:
            said = ", ".join(f"'{name}' ({width})" for name, width in wide.items())
            warn(
                f"{total} samples are fewer than {TIMES} for each of the values that are read of {said}: there "
                "LayeredMahalanobis finds little to tell samples apart by. Fit on more images, or name other layers.",
                FewSamplesWarning,
            )

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """The combined p-values of the layers (N,)."""
        return fisher(self.log_p_values(activations))

    def log_p_values(self, activations: Activations) -> Float[Tensor, "n l"]:
        """Logarithm of each layer's p-value (N, L), in the order of `layers`."""
        return log_p_values(self.layer_scores(activations).to(self.scale), self.scale)

    def layer_scores(self, activations: Activations) -> Float[Tensor, "n l"]:
        """Negative squared distance to the nearest class mean in each layer (N, L)."""
        rows = self.rows(activations)
        widths = [row.shape[1] for row in rows]
        parts = zip(
            rows,
            torch.split(self.centre, widths),
            torch.split(self.whiten, [width * width for width in widths]),
            torch.split(self.means, widths, dim=1),
            strict=True,
        )
        return torch.stack([_score(row, centre, whiten, means) for row, centre, whiten, means in parts], dim=1)


def _score(row: Tensor, centre: Tensor, whiten: Tensor, means: Tensor) -> Tensor:
    # as Mahalanobis: directions of little variance weigh most, and would drown in the rounding of single precision
    points = (row.double() - centre) @ whiten.view(row.shape[1], row.shape[1]).double()
    means = means.double()
    nearest = (means.square().sum(1) - 2 * points @ means.T).argmin(1)
    return -(points - means[nearest]).square().sum(1)


def _varies(covariance: Covariance) -> bool:
    spread = covariance.pooled().diagonal().amax().sqrt()
    return bool(spread > SMALLEST_SPREAD * covariance.mean.abs().amax())


def left_out_scores(
    rows: Float[Tensor, "s k"], labels: Int[Tensor, " s"], covariance: Covariance, whiten: Float[Tensor, "k r"]
) -> Float[Tensor, " s"]:
    """Negative distance of each sample to the nearest class, means and covariance being of all samples but this one.

    Without sample x of class y, which has n samples of all N, and with `delta = x - mu_y`, the mean is
    `mu_y - delta / (n - 1)` and the scatter `S - a delta delta'`, `a = n / (n - 1)`; its inverse follows by the formula
    of Sherman and Morrison (Annals of Mathematical Statistics 1950), so that one fit serves all.

    Parameters
    ----------
    rows : Tensor (S, K)
        Samples among those of the covariance, float64.
    labels : Tensor (S,)
        Their classes.
    covariance : Covariance
        By label, of N samples.
    whiten : Tensor (K, R)
        `whiten @ whiten.T` is the inverse of the pooled covariance.
    """
    total, count = covariance.moments.total, covariance.count[labels].double()
    points, means = rows @ whiten, covariance.mean @ whiten
    delta = points - means[labels]
    own = delta.square().sum(1)
    gain = torch.where(count > 1, count / (count - 1).clamp(min=1), 0.0)
    rest = (1 - gain * own / total).clamp(min=SMALLEST_REST)
    squared = torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    along = (points * delta).sum(1, keepdim=True) - delta @ means.T
    distances = (total - 1) * (squared / total + (gain / rest).unsqueeze(1) * (along / total).square())
    # a class of this one sample would not be there
    left = torch.where(count > 1, (total - 1) * gain.square() * own / total / rest, torch.inf)
    return -distances.scatter(1, labels.unsqueeze(1), left.unsqueeze(1)).amin(1)
