"""What may prepare the inputs of a model: a `Preprocessing` of images, or a `TextPreprocessing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from oodline.preprocessing.preprocessing import Preprocessing
from oodline.preprocessing.text import TextPreprocessing, is_tokenizer

AnyPreprocessing = Preprocessing | TextPreprocessing


def _kind(record: object) -> str:
    stated = record if isinstance(record, dict) else {}
    return "(texts)" if isinstance(record, TextPreprocessing) or "tokenizer" in stated else "(images)"


PreprocessingRecord = Annotated[
    Annotated[Preprocessing, Tag("(images)")] | Annotated[TextPreprocessing, Tag("(texts)")], Discriminator(_kind)
]
"""Either as a field of a document that is read from a file."""


def preprocessing_of(transform: Callable[..., Any], *, mode: Literal["RGB", "L"] | None = None) -> AnyPreprocessing:
    """A transform or an image processor as `Preprocessing.of` has it, a tokenizer as `TextPreprocessing.of`.

    Raises
    ------
    SettingError
        As these.

    Examples
    --------
    >>> from oodline.testing import toy_tokenizer
    >>> preprocessing_of(toy_tokenizer()).arguments
    ('input_ids', 'attention_mask')
    """
    if isinstance(transform, TextPreprocessing):
        return transform
    return TextPreprocessing.of(transform) if is_tokenizer(transform) else Preprocessing.of(transform, mode=mode)
