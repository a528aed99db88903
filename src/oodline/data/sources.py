"""The interface of a data set of images or texts: by position, each with a name and an optional label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from PIL import Image

from oodline.preprocessing.text import Text

Sample = TypeVar("Sample", covariant=True)


class Source(Protocol[Sample]):
    """Images or texts by position."""

    class_names: tuple[str, ...] | None
    """Names of the classes in the order of the labels, where the source knows them."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def name(self, i: int) -> str:
        """What to call sample `i` in messages and tables."""
        ...

    def label(self, i: int) -> int | None:
        """Class of sample `i`, None where it has none."""
        ...

    def read(self, i: int) -> Sample:
        """Sample `i`; raises where it cannot be read. Of images, call `oodline.data.decoding.read_image`."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of content and labels, by which a cache knows it: the same wherever the data lies."""
        ...


class ImageSource(Source[Image.Image], Protocol):
    """Images by position."""


class TextSource(Source[Text], Protocol):
    """Texts by position, or pairs of texts."""


def names_of_logits(names: Sequence[str] | None, label_offset: int, num_classes: int) -> tuple[str, ...] | None:
    """A source's class names in the order of a classifier's logits.

    Parameters
    ----------
    names : sequence of str, optional
        In the order of the source's labels.
    label_offset : int
        What is added to a label to make it the position of a logit.
    num_classes : int
        Number of logits.

    Returns
    -------
    tuple of str, or None
        A logit before the first name is `class` and its number. None where there are no names, or not one per class.

    Examples
    --------
    >>> names_of_logits(["cat", "dog"], 1, 3)
    ('class 0', 'cat', 'dog')
    >>> names_of_logits(["cat", "dog"], 0, 3) is None
    True
    """
    if names is None:
        return None
    moved = (*(f"class {i}" for i in range(label_offset)), *names[max(-label_offset, 0) :])
    return moved if num_classes == len(moved) else None
