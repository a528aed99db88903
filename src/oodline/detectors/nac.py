"""NAC-UE: how usual the state of each neuron is among training samples (Liu et al., ICLR 2024, Eq. 4-8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.ranges import Count
from oodline.detectors.assumptions import SOFTMAX, GradedStates, PerClass, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper, Preset
from oodline.detectors.parts.neuron_states import layer_states, neuron_states
from oodline.errors import SettingError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic

SOURCE = "the authors' code, commit f8dbf68, configs/postprocessors/nac"


class Layer(NamedTuple):
    """How the states of one layer are counted."""

    alpha: float
    """Steepness of the sigmoid, above 0."""
    bins: int
    """M in the paper: an even number, at least 4, of which M - 2 lie on [0, 1] (see `edges`)."""
    full: int
    """O in the paper: samples in a bin that make it fully covered."""


CIFAR10 = {
    "layer3": Layer(1000.0, 500, 100),
    "layer2": Layer(0.001, 50, 5),
    "layer1": Layer(0.001, 500, 100),
}
CIFAR100 = {
    "layer3": Layer(10.0, 1000, 500),
    "layer2": Layer(1.0, 50, 500),
    "layer1": Layer(0.005, 50, 5),
}
IMAGENET = {
    "layer3": Layer(300.0, 50, 500),
    "layer2": Layer(0.01, 500, 50),
    "layer1": Layer(1.0, 1000, 5000),
}
VIT = {  # as torchvision names them
    "encoder.layers.encoder_layer_11.ln_2": Layer(1.0, 500, 50),
    "encoder.layers.encoder_layer_10.ln_2": Layer(10.0, 500, 10),
    "encoder.layers.encoder_layer_9.ln_2": Layer(1.0, 1000, 10),
}


def _presets(name: str, penultimate: Layer, layers: Mapping[str, Layer], **more: Any) -> dict[str, Preset]:
    settings = {**penultimate._asdict(), **more}
    return {
        name: Preset({**settings, "layers": layers}, SOURCE),
        f"{name}-penultimate": Preset(settings, SOURCE),
    }


def edges(bins: int) -> Float[Tensor, " e"]:
    """Inner edges of the `bins - 2` bins on [0, 1], symmetric, closer towards 0.5, where states crowd."""
    half = bins // 2
    lower = np.log(np.linspace(1, np.sqrt(1000), half)) / np.log(1000)
    # a neuron at rest has the state 0.5: it must not fall on either side by rounding
    inner = np.concatenate([lower[1:-1], [0.5], 1 - lower[-2:0:-1]])
    return torch.from_numpy(inner).float()


@dataclass(frozen=True)
class NeuronBins:
    """The bin of each neuron's state, (N, K): penultimate neurons first, then those of the named layers in turn.

    Bins are numbered through over the layers, so that the number of a bin also says its layer.
    """

    penultimate: Layer
    layers: tuple[tuple[str, Layer], ...]

    def __call__(self, activations: Activations, groups: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """The bins, as floating numbers."""
        return self.places(activations).float()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Number of bins, and samples that fill one, of each layer."""
        return [(layer.bins - 2, layer.full) for layer in (self.penultimate, *(layer for _, layer in self.layers))]

    def places(self, activations: Activations) -> Int[Tensor, "n k"]:
        """The bins, as numbers."""
        states = [neuron_states(activations, self.penultimate.alpha)]
        if self.layers:
            states += layer_states(activations, {name: layer.alpha for name, layer in self.layers})
        found, first = [], 0
        for state, (size, _) in zip(states, self.sizes, strict=True):
            found.append(first + torch.bucketize(state, edges(size + 2).to(state), right=True))
            first += size
        return torch.cat(found, dim=1)


class NAC(Detector):
    """Neuron activation coverage: `mean_d min(count_d[bin of state_d] / full, 1)`. Higher = more in-distribution.

    The state of neuron d is `sigmoid(alpha f_d g_d)`, g the gradient of KL(uniform, softmax(z)) with respect to f, and
    `count` says how many training samples had a state in the same bin. For a further layer, f and g are the sums over
    space of its output and of the gradient with respect to it, one of each a channel; the mean over the layers is the
    score. Range: [0, 1].

    Parameters
    ----------
    alpha : float
        Steepness of the sigmoid, above 0; 100 for the penultimate layer of a CIFAR-10 ResNet-18 in the paper, 3000 for
        an ImageNet ResNet-50.
    bins : int
        M of the paper, even and at least 4; 50 in the paper. Its edges leave M - 2 bins.
    full : int
        O of the paper: samples in a bin that make it fully covered; 50 for CIFAR-10, 10 for ImageNet.
    layers : mapping of str to (alpha, bins, full), optional
        Modules of the classifier that count beside the penultimate layer, with settings of their own, since gradients
        differ by orders of magnitude; none by default. On a command line it is written as JSON, in quotes:
        'nac,layers={"layer3": [1000, 500, 100]}'.
    samples : int
        Training samples that are counted; 1000 in the paper, chosen by class there and by a hash of the index here.

    Raises
    ------
    SettingError
        A setting is out of range.
    HeadError
        A layer does not exist, is not on the way to the logits, or has an output of another shape.
    InputError
        With `layers`: inputs that cannot be differentiated, such as tokens.

    Notes
    -----
    The penultimate gradient has a closed form. Further layers cost one forward and one backward pass a batch for all of
    them together. The presets name the four layers of the paper's main results; those that end in `-penultimate` do
    without the three further ones.

    Examples
    --------
    >>> from oodline import score
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> scores = NAC(full=5).fit(classifier, loader)(classifier(loader[0][0]))
    >>> bool((scores >= 0).all() and (scores <= 1).all())
    True
    >>> detector = NAC(full=5, layers={"0": (10.0, 20, 5)}).fit(classifier, loader)
    >>> score(detector, classifier, loader)["nac"].shape
    torch.Size([60])
    """

    name: ClassVar = "nac"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (SOFTMAX, PerClass(10, "a count of states"), GradedStates(), TellsApart(below=0.08))
    paper: ClassVar = Paper(
        "Neuron Activation Coverage: Rethinking Out-of-distribution Detection and Generalization",
        "ICLR 2024",
        "2306.02879",
    )
    presets: ClassVar = {
        **_presets("cifar10-resnet18", Layer(100.0, 50, 50), CIFAR10),
        **_presets("cifar100-resnet18", Layer(50.0, 50, 50), CIFAR100),
        **_presets("imagenet-resnet50", Layer(3000.0, 50, 10), IMAGENET),
        **_presets("imagenet-vit-b16", Layer(100.0, 50, 500), VIT, samples=50_000),
    }
    coverage: Fitted[Float[Tensor, " V"]]
    start: Fitted[Int[Tensor, " K"]]
    layers: dict[str, Layer]

    def __init__(
        self,
        *,
        alpha: float = 100.0,
        bins: int = 50,
        full: int = 50,
        layers: Mapping[str, tuple[float, int, int]] | None = None,
        samples: Count = 1000,
    ) -> None:
        super().__init__()
        self.layers = {name: Layer(*values) for name, values in (layers or {}).items()}
        _check("its penultimate layer", Layer(alpha, bins, full))
        for name, layer in self.layers.items():
            _check(f"layer '{name}'", layer)
        self.alpha = alpha
        self.bins = bins
        self.full = full
        self.samples = samples
        self._bins = NeuronBins(Layer(alpha, bins, full), tuple(self.layers.items()))

    @property
    def all_needs(self) -> Needs:
        """What it reads; the classifier itself only where gradients of further layers are asked for."""
        return super().all_needs | (Needs.INPUTS | Needs.CLASSIFIER if self.layers else Needs(0))

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """The bins that a sample falls into."""
        return {"bins": Reservoir(self.samples, self._bins)}

    def estimate(self, head: Head, bins: Reservoir) -> None:
        """Count samples by bin: one row of bins a neuron, all rows one after the other."""
        places = bins.rows.long()
        coverage, start, column, first, filled = [], [], 0, 0, 0
        for size, full in self._bins.sizes:
            # the first sample shows which columns are of this layer
            width = int(((places[0] >= first) & (places[0] < first + size)).sum())
            rows = filled + size * torch.arange(width)
            cells = size * torch.arange(width) + places[:, column : column + width] - first
            counts = torch.bincount(cells.flatten(), minlength=size * width)
            # a mean over neurons and then over layers is one sum of what each adds to it
            coverage.append((counts / full).clamp(max=1) / (width * len(self._bins.sizes)))
            start.append(rows - first)
            column, first, filled = column + width, first + size, filled + size * width
        self.coverage = torch.cat(coverage).float()
        self.start = torch.cat(start)

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Mean coverage (N,)."""
        return self.coverage[self.start + self._bins.places(activations)].sum(1)


def _check(whose: str, layer: Layer) -> None:
    if not layer.alpha > 0:
        raise SettingError(f"`alpha` must be a number above 0 for {whose}; got {layer.alpha:g}.")
    if layer.bins < 4 or layer.bins % 2:
        raise SettingError(f"`bins` must be an even number of at least 4 for {whose}; got {layer.bins}.")
    if layer.full < 1:
        raise SettingError(f"`full` must be an integer of at least 1 for {whose}; got {layer.full}.")
