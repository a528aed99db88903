"""ODIN: temperature and a small step towards confidence (Liang, Li and Srikant, ICLR 2018, Eq. 1-2), and i-ODIN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import NonNegative, Positive
from oodline.detectors.assumptions import SOFTMAX
from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.errors import InputError, SettingError
from oodline.model.activations import Activations, Needs

if TYPE_CHECKING:
    from oodline.preprocessing.kinds import AnyPreprocessing


@dataclass(frozen=True)
class TemperedConfidence:
    """`max_y log softmax(z / T)_y` (N,); equal ones are differentiated once for a batch."""

    temperature: float

    def __call__(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """The confidence of each sample."""
        # at T = 1000 all logarithms are close to -log C: in single precision their differences would drown
        return torch.log_softmax(logits.double() / self.temperature, dim=1).amax(1)


class ODIN(Detector):
    """Log of the tempered maximum softmax after a step of the input: `max_y log softmax(z(x~) / T)_y`.

    `x~ = x + epsilon sign(grad_x max_y log softmax(z(x) / T)_y) / std`, one std per channel. ID inputs gain more
    confidence by the step than OOD ones. Higher = more in-distribution. Range: [-log C, 0].

    Parameters
    ----------
    temperature : float
        T > 0; 1000 in the paper.
    epsilon : float
        Size of the step, at least 0, in units of pixels in [0, 1], before normalisation. The paper chooses it with OOD
        data; 0.0014 is its value for a DenseNet on CIFAR-10.
    std : sequence of float, optional
        What the preprocessing divides each channel by, `Preprocessing.std`; one value stands for all channels.
        `oodline fit`, `oodline bench` and `Guard.calibrate` take it from the preprocessing where they know it. If
        omitted and not known, 1: the step is then in units of the input as the model takes it.

    Raises
    ------
    SettingError
        A setting is out of range.
    InputError
        Inputs that cannot be differentiated, such as tokens, or that have another number of channels than `std`.

    Notes
    -----
    Costs two further forward passes and one backward pass a batch; `i-odin` and others of the same temperature share
    the backward pass, and the forward pass before it.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> from oodline import score
    >>> score(ODIN(), classifier, loader)["odin"].shape
    torch.Size([60])
    """

    name: ClassVar = "odin"
    needs: ClassVar = Needs.INPUTS | Needs.CLASSIFIER
    assumes: ClassVar = (SOFTMAX,)
    paper: ClassVar = Paper(
        "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks", "ICLR 2018", "1706.02690"
    )
    is_log: bool = True
    is_log_probability: bool = True

    def __init__(
        self, *, temperature: Positive = 1000.0, epsilon: NonNegative = 0.0014, std: Sequence[Positive] | None = None
    ) -> None:
        super().__init__()
        if std is not None and len(std) == 0:
            raise SettingError("`std` must have one number per channel; got none.")
        self.temperature = temperature
        self.epsilon = epsilon
        self.std = None if std is None else tuple(std)

    def use_preprocessing(self, preprocessing: AnyPreprocessing) -> None:
        """Step in units of pixels, of which the preprocessing divides each channel by its `std`."""
        if self.std is None and (std := getattr(preprocessing, "std", None)) is not None:
            self.std = tuple(std)

    def direction(self, gradient: Tensor) -> Tensor:
        """Where the input goes, (N, ...) as the gradient of the confidence."""
        return gradient.sign()

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Tempered confidence after the step (N,)."""
        classifier, inputs = activations.second_pass()
        confidence = TemperedConfidence(self.temperature)
        gradient = classifier.gradients(inputs, confidence).inputs
        moved = inputs + self.epsilon * self._in_input_units(self.direction(gradient)).to(inputs)
        return confidence(classifier(moved).logits)

    def _in_input_units(self, step: Tensor) -> Tensor:
        if self.std is None:
            return step
        if step.ndim < 2 or len(self.std) not in (1, step.shape[1]):
            raise InputError(
                f"{type(self).__name__} has std for {len(self.std)} channels; got inputs of shape "
                f"{tuple(step.shape)}, which have {step.shape[1] if step.ndim > 1 else 'none'}. Give one per channel."
            )
        return step / step.new_tensor(self.std).view(-1, *(1 for _ in step.shape[2:]))


class IODIN(ODIN):
    """ODIN that moves only the one element of each input whose gradient is largest (Regmi, CVPR 2026, Sec. 3.4).

    Higher = more in-distribution. Range: [-log C, 0]. Settings as `ODIN`.

    Examples
    --------
    >>> IODIN().direction(torch.tensor([[1.0, -3.0, 2.0]]))
    tensor([[ 0., -1.,  0.]])
    """

    name: ClassVar = "i-odin"
    paper: ClassVar = Paper("Image-based Outlier Synthesis With Training Data", "CVPR 2026", "2411.10794")

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign of the largest gradient, at its place; the first of equals."""
        flat = gradient.flatten(1)
        place = flat.abs().argmax(1, keepdim=True)
        step = torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign())
        return step.reshape(gradient.shape)
