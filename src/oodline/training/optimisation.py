"""The optimiser and the learning rate of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from oodline.training.recipe import Recipe, Schedule

LEAST = 1e-6
"""Learning rate at the end of a cosine."""
STEPS = (0.5, 0.75, 0.9)
"""Shares of the training after which "steps" divides by ten: those of AbeT's CIFAR training."""


def optimiser_for(recipe: Recipe, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """The recipe's optimiser.

    Examples
    --------
    >>> from oodline.training.recipe import RECIPES
    >>> optimiser_for(RECIPES["rna"], nn.Linear(2, 2).parameters(), 0.1).__class__.__name__
    'Adam'
    """
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, learning_rate, momentum=0.9, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )


def rate_at(schedule: Schedule, learning_rate: float) -> Callable[[float], float]:
    """From the share of the training that is done, in [0, 1], to the learning rate.

    Examples
    --------
    >>> [round(rate_at("cosine", 0.1)(x), 4) for x in (0, 0.5, 1)], [rate_at("steps", 1.0)(x) for x in (0, 0.5)]
    ([0.1, 0.05, 0.0], [1.0, 0.1])
    """
    if schedule == "cosine":
        return lambda done: LEAST + (learning_rate - LEAST) * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "steps":
        return lambda done: learning_rate * 0.1 ** sum(done >= step for step in STEPS)
    return lambda done: learning_rate
