"""MCM: maximum softmax of the cosines of image and class texts (Ming et al., NeurIPS 2022, Eq. 1)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Positive
from oodline.detectors.assumptions import SOFTMAX
from oodline.detectors.base import Detector
from oodline.detectors.msp import log_max_softmax
from oodline.detectors.paper import Paper
from oodline.detectors.parts.cosines import class_cosines
from oodline.model.activations import Activations, Needs


class MCM(Detector):
    """Log of the maximum concept matching: `log max_c softmax(cos(f, t_c) / T)_c`. Higher = more in-distribution.

    For zero-shot classifiers (`Classifier.zero_shot`): t_c is the text vector of class c, the direction of its row of
    the head. It needs no data. `exp(score)` is the paper's score, and the ranking is the same. Range: [-log C, 0].

    Parameters
    ----------
    temperature : float
        T > 0; 1 in the paper, which finds 0.01, the temperature of CLIP's own logits, worse for OOD detection.

    Raises
    ------
    SettingError
        The temperature is not positive.
    HeadError
        The head is not one linear layer.

    Examples
    --------
    >>> import torch
    >>> from oodline import Classifier
    >>> classifier = Classifier.zero_shot(torch.nn.Flatten(), torch.eye(2, 3))
    >>> MCM()(classifier(torch.tensor([[4.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))).exp()
    tensor([0.7311, 0.5000], dtype=torch.float64)
    """

    name: ClassVar = "mcm"
    needs: ClassVar = Needs.FEATURES | Needs.LINEAR_HEAD
    assumes: ClassVar = (SOFTMAX,)
    paper: ClassVar = Paper(
        "Delving into Out-of-Distribution Detection with Vision-Language Representations", "NeurIPS 2022", "2211.13445"
    )
    is_log: bool = True
    is_log_probability: bool = True

    def __init__(self, *, temperature: Positive = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Log of the largest softmax of the cosines (N,)."""
        return log_max_softmax(class_cosines(activations) / self.temperature)
