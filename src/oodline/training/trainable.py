"""What a recipe is told of a classifier and its training data, and which classifiers it is not for."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from oodline.data.batch import unpack
from oodline.errors import LabelError, SettingError
from oodline.model.activations import Needs
from oodline.model.classifier import Classifier
from oodline.training.batches import class_labels
from oodline.training.forward import Forward
from oodline.training.recipe import Network, Recipe


def network_of(classifier: Classifier, train: Iterable[Any], recipe: Recipe) -> Network:
    """Sizes of a network, and how many training samples each class has.

    Raises
    ------
    LabelError
        A batch has no labels, or others than one class per sample; or a class has no sample.
    """
    counts: Tensor | None = None
    channels = 0
    for batch in train:
        inputs, labels, index = unpack(batch, 0)
        if counts is None:
            needs = Needs.FEATURE_MAP if recipe.reads_map else Needs.LOGITS
            few = inputs[:2] if isinstance(inputs, Tensor) else inputs
            model = copy.deepcopy(classifier.model).eval()
            seen = Forward(model, feature_map=classifier.feature_map_name)(few, needs)
            channels = 0 if seen.feature_map is None else seen.feature_map.shape[1]
            counts = torch.zeros(seen.logits.shape[1], dtype=torch.int64)
        counts += torch.bincount(class_labels(labels, len(index), len(counts)), minlength=len(counts))
    if counts is None or bool((counts == 0).any()):
        missing = "no batch" if counts is None else f"no sample of class {int((counts == 0).nonzero()[0])}"
        raise LabelError(f"the training data has {missing}; every class needs one.")
    return Network(classifier.head.num_features, len(counts), counts.tolist(), channels)


def check_trainable(classifier: Classifier) -> None:
    """Raise `SettingError` where the losses of recipes are not for such a classifier, or nothing of it can be trained.

    Examples
    --------
    >>> from oodline.testing import toy_network
    >>> check_trainable(Classifier(toy_network()))
    """
    name, inside = type(classifier.model).__name__, None
    if classifier.rows is not None:
        inside = f"one row of logits per input; got {type(classifier).__name__}, with several"
    elif classifier.task == "multilabel":
        inside = "classes of which each sample has one; got task='multilabel'"
    elif classifier.head_name.startswith("binary("):
        inside = "one logit per class; got binary=True, one logit for two. Give the network a head of two logits"
    elif not any(parameter.requires_grad for parameter in classifier.model.parameters()):
        inside = f"weights to train; got {name}, of which none requires a gradient"
    if inside is not None:
        raise SettingError(
            f"`classifier` must have {inside}. `oodline.training` has the losses for a training loop of your own."
        )
