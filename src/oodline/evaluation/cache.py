"""A classifier whose passes are kept on disk: a network runs once over a data set, whoever asks and however often.

What is kept is what every pass gives: features, logits, labels and positions. That is compact, a few kilobytes per
image. Feature maps and inputs are not, and no record can stand in for the classifier itself: a pass for detectors that
read those runs the network (and `kept.py` keeps such detectors' fitted state and scores instead).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from oodline.data.batch import KnownLoader, unpack
from oodline.errors import InputError, SettingError
from oodline.evaluation.identity import identity
from oodline.evaluation.shards import Block, Shards
from oodline.model.activations import Activations, Needs, needs_network
from oodline.model.classifier import Classifier
from oodline.model.layers import Layer
from oodline.scoring.split import SplitLoader

IMAGES_A_SHARD = 256
"""As many images are computed again at most when a pass was interrupted; a file of 3 MB with 2048 features and 1000
classes."""


def default_folder() -> Path:
    """Where caches lie on this platform: `$XDG_CACHE_HOME/oodline`, or `~/.cache/oodline`.

    `~/Library/Caches/oodline` on macOS, and `%LOCALAPPDATA%/oodline/cache` on Windows. It can be deleted at any time.

    Examples
    --------
    >>> "oodline" in default_folder().parts
    True
    """
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "oodline" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "oodline"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oodline"


class CachedClassifier(Classifier):
    """A classifier whose passes over known loaders are kept on disk and read from there the next time.

    It is used in place of the classifier, by `fit`, `score` and `evaluate`. What is kept is known by content: weights,
    architecture and head, preprocessing, the bytes of the data, and the versions of oodline and torch; never by an
    object or a path. A pass that was interrupted goes on where it was; what is damaged on disk is computed again.
    Batches come back cut as they were recorded, so that scores are the same to the last bit.

    Parameters
    ----------
    classifier : Classifier
        Which one to run; changed weights are seen.
    folder : str or Path, optional
        Where to keep activations; see `default_folder`.
    images_a_shard : int
        How many to keep in a file, rounded down to whole batches; memory for that many is needed while they are
        recorded.

    Raises
    ------
    SettingError
        `images_a_shard` is less than 1.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline import Energy, score
    >>> from oodline.testing import toy_images
    >>> with TemporaryDirectory() as folder:
    ...     classifier, loader = toy_images(folder)
    ...     first = CachedClassifier(classifier, f"{folder}/cache")
    ...     scores = score(Energy(), first, loader)["energy"]
    ...     again = CachedClassifier(classifier, f"{folder}/cache")
    ...     same = bool((score(Energy(), again, loader)["energy"] == scores).all())
    ...     first.computed, again.computed, same
    (12, 0, True)
    """

    def __init__(
        self, classifier: Classifier, folder: str | Path | None = None, *, images_a_shard: int = IMAGES_A_SHARD
    ) -> None:
        super().__init__(
            classifier.model, classifier.head_name, feature_map=classifier.feature_map_name, dtype=classifier.dtype
        )
        self._passes = classifier._passes
        self._reader = classifier._reader  # what a pass of either shows of the head, both know
        self.folder = default_folder() if folder is None else Path(folder)
        if images_a_shard < 1:
            raise SettingError(f"a shard holds at least one image; images_a_shard={images_a_shard} does not.")
        self.images_a_shard = images_a_shard
        self.computed = 0
        """Images that the network has run over, and did not find on disk."""

    def shards(self, loader: KnownLoader | SplitLoader) -> Shards:
        """What is kept of a loader's samples, or of those of the whole that it is a part of, and under which key.

        Raises
        ------
        InputError
            The loader does not know its content.
        """
        if isinstance(loader, SplitLoader):
            return self.shards(loader.loader)  # type: ignore[arg-type]  # it says so where it is none
        if not isinstance(loader, KnownLoader):
            raise InputError(
                f"a {type(loader).__name__} does not know its content, so its activations cannot be kept on disk. Use "
                "oodline.data.image_loader, or run the classifier without a cache."
            )
        size = max(self.images_a_shard // loader.batch_size, 1) * loader.batch_size
        parts = {**identity(self), **loader.identity()}
        return Shards(self.folder / "activations", parts, loader.rows, size)

    def stream(
        self, loader: Iterable[Any], *, needs: Needs = Needs.LOGITS, layers: Sequence[Layer] = ()
    ) -> Iterator[tuple[Activations, Tensor | None]]:
        """As `Classifier.stream`, reading from disk what is there and recording what is not.

        Raises
        ------
        InputError
            The loader does not know its content, or yields nothing.
        """
        if isinstance(loader, SplitLoader):
            yield from self._stream_part(loader, needs, layers)
            return
        shards = self.shards(loader)  # type: ignore[arg-type]  # it says so where it is none
        assert isinstance(loader, KnownLoader)
        missing = set(shards.missing())
        live = needs_network(needs, layers)
        read: list[int] = []
        for absent, numbers in groupby(range(len(shards)), missing.__contains__):
            source = self._run_over if absent or live else self._replay
            for activations, labels in source(loader, shards, list(numbers), absent, needs, layers):
                read += activations.index.tolist()
                yield activations, labels
        unread = sorted(set(loader.rows).difference(read))
        loader.skipped = [loader.name(i) for i in unread]
        if not read:
            raise InputError("the loader yielded no batch: it is empty, or none of its images can be read.")

    def _stream_part(
        self, part: SplitLoader, needs: Needs, layers: Sequence[Layer]
    ) -> Iterator[tuple[Activations, Tensor | None]]:
        if needs_network(needs, layers):
            for activations, labels in super().stream(part, needs=needs, layers=layers):
                self.computed += len(activations)
                yield activations, labels
            return
        for activations, labels in self.stream(part.loader, needs=needs):
            rows = part.rows_of(activations.index)
            if len(rows):
                features, logits = (x[rows.to(x.device)] for x in (activations.features, activations.logits))
                chosen = activations.replace(features=features, logits=logits, index=activations.index[rows])
                yield chosen, None if labels is None else labels[rows]

    def _replay(
        self, loader: KnownLoader, shards: Shards, numbers: list[int], *_: Any
    ) -> Iterator[tuple[Activations, Tensor | None]]:
        for number in numbers:
            for block in shards.read(number):
                features, logits = block.features.to(self.device), block.logits.to(self.device)
                if not self._reader.agrees(features, logits):  # the head that a pass would find is not known yet
                    self(next(iter(loader.over(shards.batches([number], loader.batch_size)))).inputs)
                yield Activations(features, logits, self.head.to(features), block.index), block.labels

    def _run_over(
        self,
        loader: KnownLoader,
        shards: Shards,
        numbers: list[int],
        record: bool,
        needs: Needs,
        layers: Sequence[Layer],
    ) -> Iterator[tuple[Activations, Tensor | None]]:
        blocks: list[Block] = []
        waiting = numbers[0]
        for batch in loader.over(shards.batches(numbers, loader.batch_size)):
            inputs, labels, index = unpack(batch, 0)
            while record and waiting < shards.number(int(index[0])):
                shards.write(waiting, blocks)
                blocks, waiting = [], waiting + 1
            activations = self(inputs, needs=needs, layers=layers, index=index)
            self.computed += len(activations)
            if record:
                blocks.append(Block(activations.features.cpu(), activations.logits.cpu(), labels, index))
            yield activations, labels
        # the last shard, and those after it of which no image could be read
        for number in range(waiting, numbers[-1] + 1) if record else ():
            shards.write(number, blocks)
            blocks = []
