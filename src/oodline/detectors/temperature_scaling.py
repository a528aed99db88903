"""Temperature scaling: the maximum softmax at the temperature that fits the labels best (Guo et al., ICML 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.ranges import Count
from oodline._util.warning import warn
from oodline.detectors.base import Detector
from oodline.detectors.fitted import Fitted
from oodline.detectors.msp import log_max_softmax
from oodline.detectors.paper import Paper
from oodline.detectors.parts.sample_size import sample_size
from oodline.errors import AssumptionWarning
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head
from oodline.statistics import Reservoir, Statistic
from oodline.statistics.sources import Logits

COLDEST, HOTTEST = 1e-2, 1e2

BLOCK = 2**22
"""Logits that are in double precision at a time: 34 MB."""

MEMORISED = 0.99
"""Above this share of correct samples, a temperature below 1 is taken for a sign of training data."""


def best_temperature(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    """T in [0.01, 100] that minimises the mean of `-log softmax(z / T)_y`."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1).double()
    parts = torch.split(logits, max(1, BLOCK // logits.shape[1]))

    def slope(inverse: float) -> float:
        # the loss is convex in 1 / T; its derivative is the mean of E_p[z] - z_y
        expected = [(torch.softmax(inverse * z, dim=1) * z).sum(1) for z in (part.double() for part in parts)]
        return float((torch.cat(expected) - own).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(100):
        before = low, high
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        if (low, high) == before:
            break  # neighbouring numbers
    return 1 / low


class TemperatureScaling(Detector):
    """Log of the calibrated maximum softmax: `max_y log softmax(z / T)_y`. Higher = more in-distribution.

    T is fitted by maximum likelihood of the labels. Range: [-log C, 0].

    Parameters
    ----------
    samples : int
        At most this many logits are kept to fit T on, chosen by a hash of their index; of more than 6,710 classes
        fewer, `2**26 / C`.

    Raises
    ------
    LabelError
        Labels are missing or out of range.

    Warns
    -----
    AssumptionWarning
        More than 99 % of the samples are classified correctly, and T is below 1.

    Notes
    -----
    On the data that the classifier was trained on, T comes out too low: fit it on held-out data. Where all samples are
    classified correctly, T = 0 would be the likeliest, and T stays 1.

    Examples
    --------
    >>> best_temperature(torch.tensor([[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([1, 1, 0]))  # 2 / log 2
    2.885...
    """

    name: ClassVar = "temperature-scaling"
    needs: ClassVar = Needs.LOGITS
    paper: ClassVar = Paper("On Calibration of Modern Neural Networks", "ICML 2017", "1706.04599")
    is_log: bool = True
    is_log_probability: bool = True
    temperature: Fitted[Float[Tensor, ""]]

    def __init__(self, *, samples: Count = 10_000) -> None:
        super().__init__()
        self.samples = samples

    def statistics(self, head: Head) -> dict[str, Statistic]:
        """A sample of logits with their labels."""
        return {"sample": Reservoir(sample_size(self.samples, head.num_classes), Logits(), "label")}

    def estimate(self, head: Head, sample: Reservoir) -> None:
        """Fit T."""
        right = float((sample.rows.argmax(1) == sample.groups).double().mean())
        best = best_temperature(sample.rows, sample.groups)
        # where all are right, the colder the likelier: nothing was learnt of the temperature
        self.temperature = torch.tensor(1.0 if right == 1 else best)
        if right > MEMORISED and best < 1:
            warn(
                f"TemperatureScaling was fitted on {len(sample.rows)} samples of which {right:.2%} are classified "
                f"correctly, which gives T = {best:.3g}: that is what data looks like that the classifier was trained "
                f"on. {'T stays 1. ' if right == 1 else ''}Fit it on held-out data.",
                AssumptionWarning,
            )

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Calibrated confidence (N,)."""
        return log_max_softmax(activations.logits / self.temperature)
