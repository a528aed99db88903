"""`FineTuned`: what `finetune` gives, as text for people and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from oodline._version import __version__
from oodline.model.classifier import Classifier
from oodline.training.comparison import Comparison
from oodline.training.epochs import History
from oodline.training.recipe import Recipe

PLAIN = "cross-entropy"

ADVICE = "Lower `learning_rate`, augment less, or raise `accuracy_lost`."
"""What may help where no epoch was kept."""


@dataclass(frozen=True, eq=False, repr=False)
class FineTuned:
    """What `finetune` gave; `print` shows losses, accuracies, the epochs that were kept, and the table.

    Parameters
    ----------
    classifier : Classifier
        Fine-tuned by the recipe.
    plain : Classifier, optional
        The same one fine-tuned by cross-entropy, for as many epochs, by the same optimiser; None where the recipe is
        that.
    recipe : Recipe
        With its settings, and the learning rate that was used.
    histories : dict of str to History
        Loss, accuracy and seconds of each training, by name: "cross-entropy" and the recipe's.
    comparison : Comparison, optional
        Before, plain and recipe under every detector; None without OOD data.
    setup : mapping of str to Any
        What else the result depends on: epochs asked for, seed, dtype, accuracy that may be lost, classifier, data.
    """

    classifier: Classifier
    plain: Classifier | None
    recipe: Recipe
    histories: dict[str, History]
    comparison: Comparison | None = None
    setup: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Recipe, learning rate and the epochs that were kept."""
        history = self.histories[self.recipe.name]
        rate = f"learning_rate={self.recipe.learning_rate:g}"
        return f"FineTuned({self.recipe.name!r}, {rate}, epochs_kept={history.epochs_kept})"

    def __str__(self) -> str:
        """As `to_text`."""
        return self.to_text()

    @property
    def notes(self) -> dict[str, str]:
        """By name, "no epoch kept" for each training whose weights are those from before."""
        return notes(self.histories)

    @property
    def time_ratio(self) -> float | None:
        """Seconds per epoch of the recipe over those of plain cross-entropy, both as medians."""
        if self.plain is None:
            return None
        ours, theirs = (torch.tensor(self.histories[n].seconds).median() for n in (self.recipe.name, PLAIN))
        return float(ours / theirs)

    def to_text(self, advice: str = ADVICE) -> str:
        """A line for each training, then the table; `advice` follows where no epoch was kept."""
        lines = [f"learning rate {self.recipe.learning_rate:g}"]
        for name, history in self.histories.items():
            lines.append(f"{name}: {history}" + ("" if history.epochs_kept else f" {advice}"))
        if self.time_ratio is not None:
            lines.append(f"an epoch of {self.recipe.name} took {self.time_ratio:.2f} times one of plain cross-entropy")
        if self.comparison is not None:
            lines.append(f"\n{self.comparison.to_markdown()}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Recipe, what the result depends on, histories and tables as plain data."""
        return {
            "oodline": __version__,
            "recipe": self.recipe.name,
            "settings": dict(self.recipe.settings),
            "learning_rate": self.recipe.learning_rate,
            "optimiser": self.recipe.optimiser,
            "nesterov": self.recipe.nesterov,
            "weight_decay": self.recipe.weight_decay,
            "schedule": self.recipe.schedule,
            **self.setup,
            "histories": {
                name: asdict(history) | {"epochs_kept": history.epochs_kept} for name, history in self.histories.items()
            },
            "notes": self.notes,
            "time_ratio": self.time_ratio,
            "tables": None if self.comparison is None else self.comparison.to_dict(),
        }


def notes(histories: Mapping[str, History]) -> dict[str, str]:
    """What a table says beside the names of trainings.

    Examples
    --------
    >>> notes({"a": History([0.5], [0.9, 0.8], [1.0], "after epoch 1"), "b": History([0.5], [0.9, 0.9], [1.0])})
    {'a': 'no epoch kept'}
    """
    return {name: "no epoch kept" for name, history in histories.items() if not history.epochs_kept}
