"""Load batches of texts from a source: tokens, padded to the longest of a batch; skip or refuse rows without text."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from oodline._util.warning import warn
from oodline.data.batch import Batch, labels_of_batch
from oodline.data.loader import describe_rows
from oodline.data.sources import TextSource
from oodline.data.subset import evenly, labels_of
from oodline.errors import InputError, TextError
from oodline.preprocessing.text import Text, TextPreprocessing


class TextLoader:
    r"""Batches of a source of texts in its order, with the position of every text.

    Parameters
    ----------
    source : TextSource
        What to read.
    preprocessing : TextPreprocessing
        The model's tokenizer.
    batch_size : int
        Texts per batch; fewer if some were skipped, and in the last one.
    limit : int, optional
        Read at most this many texts, evenly over classes; of texts without labels the first ones.
    on_error : {"raise", "skip"}
        Raise `TextError` for a row without a text, or leave it out and remember its name.
    label_offset : int
        Added to every label.

    Raises
    ------
    InputError
        `batch_size` or `limit` is less than 1.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.data import open_texts
    >>> from oodline.testing import toy_tokenizer
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.csv").write_text("text,label\na red rose,1\nthe sky,0\n")
    ...     [batch] = TextLoader(open_texts(f"{folder}/a.csv"), TextPreprocessing.of(toy_tokenizer()))
    >>> batch.inputs["input_ids"].shape, batch.labels, batch.index
    (torch.Size([2, 5]), tensor([1, 0]), tensor([0, 1]))
    """

    unit = "texts"
    """What its samples are, in words."""

    def __init__(
        self,
        source: TextSource,
        preprocessing: TextPreprocessing,
        batch_size: int = 64,
        limit: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        label_offset: int = 0,
    ) -> None:
        if batch_size < 1 or (limit is not None and limit < 1):
            raise InputError(f"`batch_size` and `limit` must be at least 1; got {batch_size} and {limit}.")
        self.source, self.preprocessing, self.batch_size = source, preprocessing, batch_size
        self.on_error, self.label_offset = on_error, label_offset
        self.skipped: list[str] = []
        """Names of the rows without a text in the last iteration."""
        self.truncated = 0
        """Texts of which the end was left out in the last iteration."""
        self._warned: list[bool] = []  # shared with parts of it: one warning is enough
        everything = limit is None or limit >= len(source)
        self._read_only(range(len(source)) if everything else evenly(labels_of(source), limit or 1))

    def _read_only(self, rows: Sequence[int]) -> None:
        self.rows = rows
        self._batches: Sequence[Sequence[int]] = [
            rows[k : k + self.batch_size] for k in range(0, len(rows), self.batch_size)
        ]

    @property
    def num_samples(self) -> int:
        """Number of rows, with a text or without."""
        return len(self.rows)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped, self.truncated = [], 0
        seen, first = 0, ""
        for rows in self._batches:
            read = [(i, text) for i in rows if (text := self._text(i)) is not None]
            if not read:
                continue
            tokens = self.preprocessing.tokens([text for _, text in read])
            self.truncated += len(tokens.truncated)
            first = first or next((self.source.name(read[k][0]) for k in tokens.truncated), "")
            seen += len(read)
            labels = labels_of_batch([self.source.label(i) for i, _ in read], self.label_offset)
            yield Batch(tokens.inputs, labels, torch.tensor([i for i, _ in read]))
        if self.truncated and not self._warned:
            self._warned.append(True)
            warn(
                f"{self.truncated} of {seen} texts have more than {self.preprocessing.max_length} tokens and are cut "
                f"there, the first of them {first}."
            )

    def _text(self, i: int) -> Text | None:
        try:
            return self.source.read(i)
        except TextError as error:
            if self.on_error == "raise":
                raise TextError(
                    f"text {self.source.name(i)} (number {i}) cannot be read: {error.reason}. Repair or remove it, or "
                    "skip such texts with --on-error skip."
                ) from error
            self.skipped.append(self.source.name(i))
            return None

    def over(self, batches: Sequence[Sequence[int]]) -> TextLoader:
        """The same texts cut into these batches of positions, which need not be all."""
        part = copy.copy(self)
        part.skipped, part.truncated, part._batches = [], 0, batches
        return part

    def part(self, i: int, n: int) -> TextLoader:
        """The i-th of `n` shares: a run of whole batches, which keep the positions that they have here."""
        first, end = (math.ceil(k * len(self) / n) * self.batch_size for k in (i, i + 1))
        part = copy.copy(self)
        part.skipped, part.truncated = [], 0
        part._read_only(self.rows[first:end])
        return part

    def name(self, i: int) -> str:
        """What to call text `i` in messages."""
        return self.source.name(i)

    def identity(self) -> dict[str, str]:
        """All that the batches' content depends on, by name: what a cache knows them by."""
        return {"data": self.source.fingerprint(), **self.preparation(), "unreadable texts": self.on_error}

    def preparation(self) -> dict[str, str]:
        """What each text becomes, and which of them: not the data itself."""
        return {
            "preprocessing": f"TextPreprocessing {self.preprocessing.model_dump_json()}",
            "label offset": str(self.label_offset),
            "texts": describe_rows(self.rows),
        }
