"""NAC-UE: how usual the state of each neuron is among training samples (Liu et al., ICLR 2024, Eq. 4-8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.activations import Activations, Needs
from oodline.detectors.base import Detector, Paper, Preset
from oodline.errors import SettingError
from oodline.head import Head
from oodline.statistics import Reservoir, Statistic


@dataclass(frozen=True)
class NeuronStates:
    """`sigmoid(alpha f g)`, g being the gradient of KL(uniform, softmax) with respect to the features: (N, D)."""

    alpha: float

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """The states."""
        return neuron_states(activations, self.alpha)


def neuron_states(activations: Activations, alpha: float) -> Float[Tensor, "n d"]:
    """State of each penultimate neuron in (0, 1); on a linear head the gradient is `(softmax(z) - 1/C) W`."""
    head = activations.head.linear
    pull = torch.softmax(activations.logits, dim=1) - 1 / activations.logits.shape[1]
    return torch.sigmoid(alpha * activations.features * (pull @ head.weight))


def edges(bins: int) -> Float[Tensor, " e"]:
    """Inner edges of bins on [0, 1], logarithmic towards both ends, where states crowd."""
    # from 1e-3 of the half interval up to its end, mirrored
    half = torch.logspace(-3, 0, bins // 2 + 1, dtype=torch.float64)[:-1] / 2
    return torch.cat([half, torch.tensor([0.5], dtype=torch.float64), 1 - half.flip(0)]).float()


class NAC(Detector):
    """Neuron activation coverage: `mean_d min(count_d[bin of state_d] / full, 1)`. Higher = more in-distribution.

    The state of neuron d is `sigmoid(alpha f_d g_d)`, g the gradient of KL(uniform, softmax(z)) with respect to f, and
    `count` says how many training samples had a state in the same bin. Range: [0, 1].

    Parameters
    ----------
    alpha : float
        Steepness of the sigmoid, above 0; 100 for the penultimate layer of a CIFAR-10 ResNet-18 in the paper, 3000 for
        an ImageNet ResNet-50.
    bins : int
        Number of bins, even; 50 in the paper.
    full : int
        Samples in a bin that make it fully covered; 50 in the paper for CIFAR-10, 10 for ImageNet.
    samples : int
        Training samples that are counted; 1000 in the paper, chosen by class there and by a hash of the index here.

    Raises
    ------
    SettingError
        A setting is out of range.

    Notes
    -----
    The paper adds up four layers; this is the penultimate one, whose gradient has a closed form, so that no second pass
    is needed.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> scores = NAC(full=5).fit(classifier, loader)(classifier(loader[0][0]))
    >>> bool((scores >= 0).all() and (scores <= 1).all())
    True
    """

    name: ClassVar = "nac"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    paper: ClassVar = Paper(
        "Neuron Activation Coverage: Rethinking Out-of-distribution Detection and Generalization",
        "ICLR 2024",
        "2306.02879",
    )
    presets: ClassVar = {
        "cifar10-resnet18": Preset({"alpha": 100.0, "bins": 50, "full": 50}, "the authors' code, layer avgpool"),
        "cifar100-resnet18": Preset({"alpha": 50.0, "bins": 50, "full": 50}, "the authors' code, layer avgpool"),
        "imagenet-resnet50": Preset({"alpha": 3000.0, "bins": 50, "full": 10}, "the authors' code, layer avgpool"),
    }
    fitted_buffers: ClassVar = ("coverage",)
    coverage: Tensor

    def __init__(self, *, alpha: float = 100.0, bins: int = 50, full: int = 50, samples: int = 1000) -> None:
        super().__init__()
        if not 0 < alpha < float("inf"):
            raise SettingError(f"NAC needs alpha above 0; {alpha} is not.")
        if bins < 2 or bins % 2 or full < 1 or samples < 1:
            raise SettingError(
                f"NAC needs an even number of bins, and full and samples of at least 1; not {bins}, {full}, {samples}."
            )
        self.alpha = alpha
        self.bins = bins
        self.full = full
        self.samples = samples

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the states."""
        return {"states": Reservoir(self.samples, NeuronStates(self.alpha))}

    def estimate(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Count states by bin."""
        states: Tensor = statistics["states"].rows
        width, inner = states.shape[1], edges(self.bins)
        places = torch.bucketize(states, inner) * width + torch.arange(width)
        counts = torch.bincount(places.flatten(), minlength=(len(inner) + 1) * width).reshape(-1, width)
        self.coverage = (counts / self.full).clamp(max=1).float()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Mean coverage (N,)."""
        states = neuron_states(activations, self.alpha)
        return self.coverage.gather(0, torch.bucketize(states, edges(self.bins).to(states))).mean(1)
