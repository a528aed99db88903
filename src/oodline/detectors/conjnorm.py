"""ConjNorm: a density from the Bregman divergence of an l_p norm and its conjugate (Peng et al., ICLR 2024)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from oodline._util.ranges import Count, Positive, Range
from oodline.detectors.assumptions import PerClass, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.errors import LabelError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import ClassMoments, Reservoir, Statistic

SOURCE = "the authors' code, which takes norm='class', by which p and temperature were chosen"

CHUNK = 4096
"""Samples of the bank whose affinities to all classes are held at a time."""


def affinity(
    points: Float[Tensor, "n d"], prototypes: Float[Tensor, "c d"], p: float, norm: str = "feature"
) -> Float[Tensor, "n c"]:
    """`d(a, b) = <a, b |b|^(q-2)> / |b|_q^(q-2) - |a|_q^2 / 2`, with a at p-norm 1 and `q = p / (p - 1)`."""
    q = p / (p - 1)
    directions = normalize(points, p=p, dim=1)
    axis = 1 if norm == "feature" else 0
    size = torch.linalg.vector_norm(prototypes, q, dim=axis, keepdim=True).clamp(min=torch.finfo(points.dtype).tiny)
    # b |b|^(q-2) / |b|_q^(q-2) without the pole at b = 0 that q < 2 has
    dual = prototypes.sign() * (prototypes.abs() / size) ** (q - 1) * size
    own: Tensor = torch.linalg.vector_norm(directions, q, dim=1, keepdim=True)
    found: Tensor = directions @ dual.T - 0.5 * own.square()
    return found


class ConjNorm(Detector):
    """Log density of an exponential family by class: `log sum_c exp(d(f, mu_c) / t) / Phi_c`.

    `d(a, b) = <a, b |b|^(q-2)> / |b|_q^(q-2) - |a|_q^2 / 2` with `q = p / (p - 1)`; features and class means have
    p-norm 1; `Phi_c` sums `exp(d(f_i, mu_c) / t)` over a sample of the training data. Computed in logarithms.
    Higher = more in-distribution; any real number, no unit.

    Parameters
    ----------
    p : float
        Of the norm, above 1.
    temperature : float
        t, above 0.
    partition : {"all", "class"}
        Whether Phi_c sums over all samples of the bank, as the authors do for CIFAR, or over those of class c, as for
        ImageNet.
    bank : int
        At most this many training samples are used for Phi, chosen by a hash of their index.
    norm : {"feature", "class"}
        What `|b|_q` runs over: the features of a prototype, as in the paper, so that the inner product is with the
        gradient of `|b|_q^2 / 2`; or, for each feature, the prototypes of all classes, as in the authors' code.

    Raises
    ------
    SettingError
        A setting is out of range.
    LabelError
        A class has no sample, or none in the bank where `partition="class"`.

    Notes
    -----
    The authors chose p and the temperature with norm="class", so the presets take it too.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> ConjNorm().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "conjnorm"
    needs: ClassVar = Needs.FEATURES
    assumes: ClassVar = (PerClass(10, "a mean of each class"), TellsApart())
    paper: ClassVar = Paper(
        "ConjNorm: Tractable Density Estimation for Out-of-Distribution Detection", "ICLR 2024", "2402.17888"
    )
    presets: ClassVar = {
        "cifar10-densenet100": Preset({"p": 2.2, "temperature": 0.05, "norm": "class"}, SOURCE),
        "cifar100-densenet100": Preset({"p": 2.5, "temperature": 0.08, "norm": "class"}, SOURCE),
        "imagenet-resnet50": Preset({"p": 1.5, "temperature": 5e-4, "partition": "class", "norm": "class"}, SOURCE),
        "imagenet-mobilenetv2": Preset({"p": 1.8, "temperature": 5e-3, "partition": "class", "norm": "class"}, SOURCE),
    }
    is_log: bool = True
    prototypes: Fitted[Float[Tensor, "C D"]]
    log_partition: Fitted[Float[Tensor, " C"]]

    def __init__(
        self,
        *,
        p: Annotated[float, Range(1, above=True)] = 2.2,
        temperature: Positive = 0.05,
        partition: Literal["all", "class"] = "all",
        bank: Count = 50_000,
        norm: Literal["feature", "class"] = "feature",
    ) -> None:
        super().__init__()
        self.p = p
        self.temperature = temperature
        self.partition = partition
        self.bank = bank
        self.norm = norm

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """Class means, and a labelled sample of the features."""
        return {"moments": ClassMoments(), "bank": Reservoir(self.bank, by="label")}

    def estimate(self, head: Head, moments: ClassMoments, bank: Reservoir) -> None:
        """Normalise the means and sum the partition function."""
        moments.check_every_class()
        prototypes = normalize(moments.mean, p=self.p, dim=1)
        log_partition = torch.full((len(prototypes),), -torch.inf, dtype=torch.float64)
        for part, groups in zip(torch.split(bank.rows, CHUNK), torch.split(bank.groups, CHUNK), strict=True):
            exponent = affinity(part.double(), prototypes, self.p, self.norm) / self.temperature
            if self.partition == "class":
                exponent[groups.unsqueeze(1) != torch.arange(len(prototypes))] = -torch.inf
            log_partition = torch.logaddexp(log_partition, exponent.logsumexp(0))
        missing = torch.nonzero(log_partition == -torch.inf).flatten().tolist()
        if missing:
            raise LabelError(
                f"{len(missing)} of {len(prototypes)} classes have no sample in the bank of {len(bank.rows)}: "
                f"{missing[0]}. Enlarge the bank, or take partition='all'."
            )
        self.prototypes = prototypes.float()
        self.log_partition = log_partition.float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Log density (N,)."""
        # divided by a temperature of 5e-4, single precision would show in the third digit
        found = affinity(activations.features.double(), self.prototypes.double(), self.p, self.norm) / self.temperature
        return (found - self.log_partition).logsumexp(1)
