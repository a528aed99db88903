"""Read class names and preprocessing from a loader, if it states them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Subset

from oodline.data.sources import names_of_logits
from oodline.preprocessing.kinds import AnyPreprocessing


@dataclass(frozen=True)
class Stated:
    """Class names in the order of the labels, what is added to these, and the preprocessing; where they are known."""

    class_names: tuple[str, ...] | None
    label_offset: int
    preprocessing: AnyPreprocessing | None

    def names_of(self, num_classes: int) -> tuple[str, ...] | None:
        """Class names in the order of the logits."""
        return names_of_logits(self.class_names, self.label_offset, num_classes)


def stated_by(loader: Iterable[Any]) -> Stated:
    """What a loader of oodline, or a `DataLoader` over a data set of torchvision, states.

    Examples
    --------
    >>> from torch.utils.data import DataLoader
    >>> from torchvision.datasets import FakeData
    >>> data = FakeData(4)
    >>> data.classes = ["cat", "dog"]
    >>> stated_by(DataLoader(Subset(data, [0, 1]))).class_names
    ('cat', 'dog')
    """
    dataset = getattr(loader, "dataset", None)
    names = getattr(getattr(loader, "source", None), "class_names", None)
    preprocessing = getattr(loader if dataset is None else dataset, "preprocessing", None)
    offset = getattr(loader, "label_offset", getattr(dataset, "label_offset", 0))
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if names is None:
        names = getattr(dataset, "classes", None)
    texts = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(n, str) for n in names)
    return Stated(
        tuple(names) if texts and names else None,
        offset if isinstance(offset, int) else 0,
        preprocessing if isinstance(preprocessing, AnyPreprocessing) else None,
    )


def class_names_of(
    classifier_names: Sequence[str] | None, loader: Iterable[Any], num_classes: int
) -> tuple[str, ...] | None:
    """Class names in the order of the logits: the classifier's, or those that the loader states if it has none.

    Names that are not one per class are left out.

    Examples
    --------
    >>> class_names_of(["cat", "dog"], [], 2), class_names_of(["cat", "dog"], [], 3)
    (('cat', 'dog'), None)
    """
    return names_of_logits(classifier_names, 0, num_classes) or stated_by(loader).names_of(num_classes)
