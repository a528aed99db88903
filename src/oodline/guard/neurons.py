"""`Neurons`: mean activation of each neuron per class, and the training images that activate it most.

Kept on demand, for explanations: `fit([detector, Neurons()], classifier, loader)` fills it in the same pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Count
from oodline.detectors.evidence import Evidence, require_linear
from oodline.errors import HeadError, NotFittedError, StatisticsError
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head, HeadInfo
from oodline.statistics import ClassMoments, Statistic, TopSamples

IMPORTANT = 0.1
"""Share of the neurons, those of the largest mean contribution, that counts as important for a class."""


class Neurons:
    """Mean and spread of each neuron for each class, and the training samples that excite it the most.

    Fitted by `oodline.fit`, beside detectors; given to a `Guard` it completes the explanations of every detector.

    Parameters
    ----------
    samples : int
        Samples to keep for each neuron.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> neurons, line = ol.Neurons(samples=3), ol.LINe()
    >>> _ = ol.fit([line, neurons], classifier, loader)
    >>> neurons.mean.shape, neurons.top_index.shape
    (torch.Size([3, 16]), torch.Size([3, 16]))
    """

    name: ClassVar = "neurons"
    all_needs: ClassVar = Needs.FEATURES | Needs.LINEAR_HEAD
    all_layers: ClassVar[tuple[str, ...]] = ()
    tensors: ClassVar = ("mean", "spread", "top_values", "top_index")

    mean: Float[Tensor, "c d"]
    """Mean activation by class (C, D), float32; 0 for a class without samples."""
    spread: Float[Tensor, "c d"]
    """Standard deviation by class (C, D), float32."""
    top_values: Float[Tensor, "s d"]
    """Largest activations (S, D), float32, largest first."""
    top_index: Int[Tensor, "s d"]
    """Positions of those samples in the training data (S, D), int64."""

    @checked
    def __init__(self, samples: Count = 5) -> None:
        self.samples = samples
        self.fitted_on: HeadInfo | None = None

    def _requests(self, head: Head) -> dict[str, Statistic]:
        """Empty statistics to fill; see `oodline.passes.fit.Fittable`."""
        require_linear(head)
        if head.task == "multilabel":
            raise HeadError(
                "Neurons keeps means by the one class of each sample, and the labels of this classifier do not exclude "
                "each other (task='multilabel'). Leave it out: --neurons 0."
            )
        return {"moments": ClassMoments(variance=True), "top": TopSamples(self.samples)}

    def _settle(self, statistics: Mapping[str, Any], head: Head) -> None:
        """Take what it keeps from the filled statistics."""
        moments, top = statistics["moments"], statistics["top"]
        self.mean, self.spread = moments.mean.float(), moments.standard_deviation().float()
        self.top_values, self.top_index = top.values, top.index
        self.fitted_on = HeadInfo.of(head)

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors, by name.

        Raises
        ------
        NotFittedError
            It was not fitted.
        """
        if self.fitted_on is None:
            raise NotFittedError("Neurons is not fitted. Call fit([detector, neurons], classifier, train_loader).")
        return {name: getattr(self, name) for name in self.tensors}

    def mark_fitted(self, head: HeadInfo) -> None:
        """Record which head it was fitted on."""
        self.fitted_on = head

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], head: HeadInfo) -> Self:
        """Restore from `state_dict()`.

        Raises
        ------
        StatisticsError
            Tensors are missing, or of shapes and kinds that do not fit the head.
        """
        by_class, rows = (head.num_classes, head.num_features), 0
        if set(state) == set(cls.tensors) and state["top_index"].ndim == 2:
            rows = len(state["top_index"])
        by_rank = (rows, head.num_features)
        shapes = dict(zip(cls.tensors, (by_class, by_class, by_rank, by_rank), strict=True))
        if rows == 0 or any(state[name].shape != shape for name, shape in shapes.items()):
            raise StatisticsError(f"the state of Neurons must hold {', '.join(cls.tensors)}, with a column per neuron.")
        if state["top_index"].dtype != torch.int64 or any(state[n].dtype != torch.float32 for n in cls.tensors[:3]):
            raise StatisticsError("the state of Neurons must be float32, and `top_index` int64.")
        neurons = cls(rows)
        for name in cls.tensors:
            setattr(neurons, name, state[name])
        neurons.fitted_on = head
        return neurons

    def evidence(self, activations: Activations) -> Evidence:
        """Evidence for the predicted class; the `IMPORTANT` tenth of its neurons matters."""
        head = require_linear(activations.head)
        predicted = activations.logits.argmax(1)
        weight = head.weight[predicted]
        expected = weight * self.mean.to(weight)[predicted]
        least = expected.quantile(1 - IMPORTANT, dim=1, keepdim=True)
        found = weight * activations.features
        return Evidence(predicted, expected, found, found, expected > least)
