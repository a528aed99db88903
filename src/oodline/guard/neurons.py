"""`Neurons`: mean activation of each neuron per class, and the training images that activate it most.

Kept on demand, for explanations: `fit([detector, Neurons()], classifier, loader)` fills it in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Count
from oodline.detectors.evidence import Evidence, require_linear
from oodline.errors import HeadError, NotFittedError, SettingError, StatisticsError
from oodline.guard.training_pictures import NAMES, TrainingPictures
from oodline.model.activations import Activations, Needs
from oodline.model.head import Head, HeadInfo
from oodline.model.rows.places import MOST_PLACES
from oodline.statistics import ClassMoments, Statistic, TopSamples

if TYPE_CHECKING:
    from PIL import Image

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
    pictures: TrainingPictures | None = None
    """Small pictures of some of them, where `keep_pictures` was called."""

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

    @checked
    def keep_pictures(self, read: Callable[[int], Image.Image], most: Count = 1000) -> Self:
        """Keep small pictures of the samples, so that explanations show them wherever the guard is loaded.

        They are training images, for everybody who has the guard's file: about 1.3 kB each. First each neuron's most
        exciting image is kept, then each one's second, until there are `most`.

        Parameters
        ----------
        read : callable
            From a position in the training data to the PIL image there.
        most : int
            Pictures in all.

        Raises
        ------
        NotFittedError
            It was not fitted.
        SettingError
            The samples are rows, such as pixels, and no images.

        Examples
        --------
        >>> import oodline as ol
        >>> from PIL import Image
        >>> from oodline.testing import toy_problem
        >>> neurons = ol.Neurons(samples=3)
        >>> _ = ol.fit([ol.LINe(), neurons], *toy_problem())
        >>> kept = neurons.keep_pictures(lambda i: Image.new("RGB", (8, 8)), most=10).pictures
        >>> len(kept.index), int(neurons.top_index[0, 0]) in kept.index
        (10, True)
        """
        self._require_fitted()
        if bool((self.top_index >= MOST_PLACES).any()):
            raise SettingError(
                "the samples of a classifier of rows, such as pixels, are no images to keep pictures of."
            )
        ranked = list(dict.fromkeys(self.top_index.flatten().tolist()))  # by rank, then by neuron
        self.pictures = TrainingPictures.of(read, ranked[:most])
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors, by name.

        Raises
        ------
        NotFittedError
            It was not fitted.
        """
        self._require_fitted()
        kept = {} if self.pictures is None else self.pictures.state_dict()
        return {name: getattr(self, name) for name in self.tensors} | kept

    def _require_fitted(self) -> None:
        if self.fitted_on is None:
            raise NotFittedError("Neurons is not fitted. Call fit([detector, neurons], classifier, train_loader).")

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
        pictures = {name: value for name, value in state.items() if name in NAMES}
        state = {name: value for name, value in state.items() if name not in pictures}
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
        if pictures and set(pictures) != set(NAMES):
            raise StatisticsError(f"pictures of Neurons must hold {', '.join(NAMES)}.")
        neurons.pictures = TrainingPictures.from_state_dict(pictures) if pictures else None
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
