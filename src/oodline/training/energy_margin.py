"""Energy margins: energies of ID samples below one, of outliers above another (Liu et al., NeurIPS 2020)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import NonNegative
from oodline.detectors.paper import Paper, Preset
from oodline.errors import SettingError
from oodline.training.batches import MixedBatch
from oodline.training.cross_entropy import CrossEntropy
from oodline.training.loss import TrainingLoss, WithoutOutliers


class EnergyMargin(TrainingLoss):
    """Loss of the ID samples + `weight (mean relu(E_in - m_in)^2 + mean relu(m_out - E_out)^2)`.

    `E = -LSE(z)`, low for ID samples. The margins are in units of the logits, so they suit networks of a few classes,
    whose energies lie between them; a look at `-oodline.Energy()` on ID data says where yours are.

    Parameters
    ----------
    m_in, m_out : float
        ID energies above the first, and outliers' energies below the second, are penalised; the first is lower.
    weight : float
        Of both terms, at least 0.
    base : TrainingLoss, optional
        Loss of the ID samples; plain cross-entropy if omitted.
    without_outliers : {"error", "skip"}
        What becomes of a batch without outliers: an error, or the terms of its ID samples alone.

    Raises
    ------
    SettingError
        The margin of the ID samples is not the lower one.
    InputError
        A batch without outliers, unless they may be missing.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing import activations_of
    >>> two = activations_of(torch.tensor([[4.0, -50.0], [1.0, -50.0]]))  # energies -4 and -1
    >>> round(float(EnergyMargin(m_in=-5, m_out=0, weight=1)(two, torch.tensor([0, -1]))), 4)
    2.0
    """

    name: ClassVar = "energy-margin"
    needs_outliers: ClassVar = True
    paper: ClassVar = Paper("Energy-based Out-of-distribution Detection", "NeurIPS 2020", "2010.03759")
    presets: ClassVar = {
        "cifar10": Preset({"m_in": -23.0, "m_out": -5.0}, "the paper's CIFAR experiments"),
        "cifar100": Preset({"m_in": -27.0, "m_out": -5.0}, "the paper's CIFAR experiments"),
    }

    @checked
    def __init__(
        self,
        *,
        m_in: float = -25.0,
        m_out: float = -7.0,
        weight: NonNegative = 0.1,
        base: TrainingLoss | None = None,
        without_outliers: WithoutOutliers = "error",
    ) -> None:
        super().__init__()
        check_margins(m_in, m_out)
        self.m_in, self.m_out, self.weight = m_in, m_out, weight
        self.base, self.without_outliers = base or CrossEntropy(), without_outliers

    def compute(self, batch: MixedBatch) -> Tensor:
        """The ID part and the two margins."""
        loss = self.base.compute(batch)
        margins = (energy(batch.inliers.logits) - self.m_in).relu().square().mean()
        if batch.has_outliers:
            margins = margins + (self.m_out - energy(batch.outliers.logits)).relu().square().mean()
        return loss + self.weight * margins


def energy(logits: Tensor) -> Tensor:
    """Free energy of logits (N, C), low for ID samples: (N,)."""
    return -logits.logsumexp(1)


def check_margins(m_in: float, m_out: float) -> None:
    """Raise `SettingError` where the ID margin is not the lower one."""
    if m_in >= m_out:
        raise SettingError(
            f"`m_in` must be below `m_out`, {m_out:g}; got {m_in:g}. ID samples have the lower energy, -LSE(z)."
        )
