"""PRO: the least confidence on a few small steps downhill from the input (Chen et al., CVPR 2025)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.ranges import Count, NonNegative
from oodline.detectors.base import Detector
from oodline.detectors.entropy import Entropy
from oodline.detectors.paper import Paper
from oodline.errors import SettingError
from oodline.model.activations import Activations, Needs


class PRO(Detector):
    """Perturbation-rectified score: `min_k S(x_k)`, `x_{k+1} = x_k - epsilon sign(grad S(x_k))`, from the input `x_0`.

    S is a score of the logits. A confident prediction for an ID input withstands the steps, one for an OOD input falls:
    ODIN steps the other way. Higher = more in-distribution. Range and units: those of `scorer`.

    Parameters
    ----------
    scorer : Detector, optional
        S, which reads logits and nothing else, such as msp, entropy or gen; entropy by default.
    steps : int
        At least 1; 2 for entropy and 3 for GEN in the authors' code.
    epsilon : float
        Size of a step, at least 0, in units of the input as the model takes it, as in the authors' code: 0.0014 for
        entropy, 0.0001 for GEN.

    Raises
    ------
    SettingError
        A setting is out of range, or the scorer reads more than logits.
    InputError
        Inputs that cannot be differentiated, such as tokens.

    Notes
    -----
    Costs `steps` forward and backward passes and one more forward pass a batch.

    Examples
    --------
    >>> from oodline import score
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> scores = score([PRO(), Entropy()], classifier, loader)
    >>> bool((scores["pro"] <= scores["entropy"] + 1e-6).all())
    True
    """

    name: ClassVar = "pro"
    needs: ClassVar = Needs.LOGITS | Needs.INPUTS | Needs.CLASSIFIER
    tunable: ClassVar = {"steps": (1, 2, 3), "epsilon": (1e-4, 5e-4, 1.4e-3, 3e-3)}
    paper: ClassVar = Paper(
        "Leveraging Perturbation Robustness to Enhance Out-of-Distribution Detection", "CVPR 2025", "2503.18784"
    )
    scorer: Detector

    def __init__(self, *, scorer: Detector | None = None, steps: Count = 2, epsilon: NonNegative = 0.0014) -> None:
        super().__init__()
        self.scorer = scorer if scorer is not None else Entropy()
        if self.scorer.all_needs != Needs.LOGITS or self.scorer.all_layers:
            raise SettingError(
                f"`scorer` must read the logits and nothing else; got {self.scorer.name}. Try entropy, msp or gen."
            )
        self.steps = steps
        self.epsilon = epsilon
        self.is_log = self.scorer.is_log
        self.is_log_probability = self.scorer.is_log_probability

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """The least score on the way (N,)."""
        classifier, inputs = activations.second_pass()
        scores: list[Tensor] = []

        def confidence(logits: Tensor) -> Tensor:
            # in single precision the confidence in a sure prediction would be flat
            found: Tensor = self.scorer(activations.replace(logits=logits.double()))
            scores.append(found.detach())
            return found

        for _ in range(self.steps):
            gradient = classifier.gradients(inputs, confidence).inputs
            # the slope of an entropy is infinite where a probability is 0: such an input stays where it is
            inputs = inputs - self.epsilon * gradient.nan_to_num(nan=0.0).sign().to(inputs)
        confidence(classifier(inputs).logits)
        return torch.stack(scores).amin(0)
