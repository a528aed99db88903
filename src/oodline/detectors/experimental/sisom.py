"""SISOM: nearest sample of the class against nearest of the others, on neuron states (Schmidt et al., TMLR 2025)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.ranges import Positive, Range
from oodline.detectors.assumptions import PREDICTED, PerClass, Published, TellsApart
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.paper import Paper
from oodline.detectors.parts.neuron_states import NeuronStates, neuron_states
from oodline.errors import InputError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic


class SISOM(Detector):
    """Ratio of distances: `-d_in / d_out`, to the nearest training sample of the predicted class and of any other.

    Distances are between neuron states `sigmoid(alpha f g)`, as in `NAC`; a class that no kept sample was predicted as
    is as far away as the farthest of them. Higher = more in-distribution. Range: (-inf, 0], no unit.

    Parameters
    ----------
    alpha : float
        Steepness of the sigmoid, above 0.
    bank : int
        At most this many training samples are kept, chosen by a hash of their index.

    Raises
    ------
    SettingError
        A setting is out of range.
    InputError
        The kept samples were all predicted as one class.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> SISOM().fit(classifier, loader)(classifier(loader[0][0])).shape
    torch.Size([60])
    """

    name: ClassVar = "sisom"
    needs: ClassVar = Needs.FEATURES | Needs.LOGITS | Needs.LINEAR_HEAD
    assumes: ClassVar = (PREDICTED, PerClass(10, "an estimate of each class"), TellsApart(below=0.08), Published())
    paper: ClassVar = Paper(
        "A Unified Approach Towards Active Learning and Out-of-Distribution Detection", "TMLR 2025", "2405.11337"
    )
    experimental: ClassVar = (
        "no code is public and the weights of layers are unverified; this reads the penultimate layer alone"
    )
    neighbours: Fitted[Float[Tensor, "N D"]]
    classes: Fitted[Int[Tensor, " N"]]

    def __init__(self, *, alpha: Positive = 100.0, bank: Annotated[int, Range(2)] = 10_000) -> None:
        super().__init__()
        self.alpha = alpha
        self.bank = bank

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of the states, with predicted class."""
        return {"bank": Reservoir(self.bank, NeuronStates(self.alpha), by="predicted")}

    def estimate(self, head: Head, bank: Reservoir) -> None:
        """Keep the sample."""
        if len(torch.unique(bank.groups)) < 2:
            raise InputError(
                f"SISOM compares classes, and all {len(bank.groups)} kept samples were predicted as one. Fit on data "
                "of several classes."
            )
        self.neighbours, self.classes = bank.rows, bank.groups

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Negative ratio of distances (N,)."""
        states = neuron_states(activations, self.alpha)
        # without the expansion to |a|^2 - 2ab + |b|^2, which is worst for the nearest
        distances = torch.cdist(states, self.neighbours, compute_mode="donot_use_mm_for_euclid_dist")
        own = activations.logits.argmax(1, keepdim=True) == self.classes
        inside = distances.masked_fill(~own, torch.inf).amin(1)
        outside = distances.masked_fill(own, torch.inf).amin(1)
        # a class that no kept sample was predicted as: as far as the farthest kept sample
        inside = torch.where(inside.isinf(), distances.amax(1), inside)
        tiny = torch.finfo(distances.dtype).tiny
        return -((inside + tiny) / (outside + tiny)).clamp(max=1e30)
