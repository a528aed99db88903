"""GReg: energy margins, and a flat energy where samples are on the right side of them (Sharifi et al., ECCV 2024)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import NonNegative
from oodline.detectors.paper import Paper, Preset
from oodline.errors import InputError
from oodline.model.activations import Needs
from oodline.training.batches import MixedBatch
from oodline.training.energy_margin import EnergyMargin, energy
from oodline.training.loss import TrainingLoss, WithoutOutliers

SOURCE = "the authors' code, commit 6ea4ff0"


class GradientRegularised(TrainingLoss):
    """`EnergyMargin` + `gradient_weight` times the length of the energy's gradient by the inputs.

    The gradient counts for ID samples whose energy is below `m_in`, and outliers whose energy is above `m_out`: the
    energy is to stay there in their neighbourhood. The backward pass differentiates twice,
    which costs about one pass more, and needs layers that can be differentiated twice.

    The paper adds the mean length over ID samples and that over outliers (`scale="sample"`). The released code, which
    gave its numbers, differentiates *means* over the N ID samples and the M outliers, so that each gradient is N or M
    times shorter, and takes the mean over all N + M: 1 / (N + M) of the paper's term (`scale="batch"`).
    GReg+ is this loss with outliers chosen by `EnergyClusters`.

    Parameters
    ----------
    m_in, m_out, weight, base, without_outliers
        As `EnergyMargin`.
    gradient_weight : float
        At least 0.
    scale : {"batch", "sample"}
        As in the code, or as in the paper.

    Raises
    ------
    SettingError
        The margin of the ID samples is not the lower one.
    InputError
        A batch without outliers, unless they may be missing; or activations whose inputs have no gradient.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> from oodline.training import Forward
    >>> classifier, loader = toy_problem()
    >>> images, labels = loader[0]
    >>> loss = GradientRegularised(m_in=-5, m_out=0)
    >>> activations = Forward(classifier.model)(images, loss.needs)
    >>> loss(activations, torch.where(labels == 2, -1, labels)).backward()
    """

    name: ClassVar = "gradient-regularised"
    needs: ClassVar = Needs.LOGITS | Needs.INPUTS
    needs_outliers: ClassVar = True
    paper: ClassVar = Paper("Gradient-Regularized Out-of-Distribution Detection", "ECCV 2024", "2404.12368")
    presets: ClassVar = {
        "cifar": Preset({"m_in": -25.0, "m_out": -7.0, "weight": 0.1, "gradient_weight": 1.0}, SOURCE),
    }

    @checked
    def __init__(
        self,
        *,
        m_in: float = -25.0,
        m_out: float = -7.0,
        weight: NonNegative = 0.1,
        gradient_weight: NonNegative = 1.0,
        scale: Literal["batch", "sample"] = "batch",
        base: TrainingLoss | None = None,
        without_outliers: WithoutOutliers = "error",
    ) -> None:
        super().__init__()
        self.margins = EnergyMargin(m_in=m_in, m_out=m_out, weight=weight, base=base)
        self.gradient_weight, self.scale, self.without_outliers = gradient_weight, scale, without_outliers

    def compute(self, batch: MixedBatch) -> Tensor:
        """The margins and the gradients."""
        inputs = batch.activations.inputs
        if not isinstance(inputs, Tensor) or not inputs.requires_grad:
            raise InputError(
                "this loss differentiates by the inputs. Make the pass by "
                "oodline.training.Forward(model)(inputs, loss.needs)."
            )
        lengths = self.lengths(batch, inputs)
        term = lengths.sum() if self.scale == "sample" else lengths.sum() / len(lengths)
        return self.margins.compute(batch) + self.gradient_weight * term

    def lengths(self, batch: MixedBatch, inputs: Tensor) -> Float[Tensor, " n"]:
        """Length of each sample's gradient (N + M,), of the mean energy of its kind; 0 on the wrong side."""
        energies, outlier = energy(batch.activations.logits), batch.is_outlier
        right = torch.where(outlier, energies >= self.margins.m_out, energies <= self.margins.m_in)
        share = torch.where(outlier, 1 / outlier.sum().clamp(min=1), 1 / (~outlier).sum()).to(energies)
        [slope] = torch.autograd.grad((energies * right * share).sum(), inputs, create_graph=True)
        squares = slope.flatten(1).square().sum(1)
        # the slope of a square root at zero is infinite, and 0 * inf is not a number
        return torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
