"""One pass over held-out ID data and the pseudo-outliers made of it; what it gives stays in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from oodline._util.progress import track
from oodline.data.batch import Inputs, unpack
from oodline.errors import InputError
from oodline.model.activations import Activations
from oodline.model.classifier import Classifier
from oodline.passes.engine import Reads
from oodline.tuning.data_fingerprint import Fingerprinter
from oodline.tuning.pseudo_outliers import Transform
from oodline.tuning.trial import concatenate

Groups = Mapping[str, Mapping[str, Transform]]
"""Transforms of images by group and name."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Activations of held-out ID samples, of what was made of them, and which samples they were.

    Parameters
    ----------
    ids : Activations
        Of the samples as they are.
    labels : Tensor (N,), int64, optional
        None where the loader yields none.
    outliers : dict of str to dict of str to Activations
        By group and name; empty where the inputs are not images.
    witness : Fingerprinter
        Knows the samples again.
    """

    ids: Activations
    labels: Tensor | None
    outliers: dict[str, dict[str, Activations]]
    witness: Fingerprinter


def hold_out(
    classifier: Classifier, loader: Iterable[Any], groups: Groups, reads: Reads, *, limit: int, seed: int, shown: bool
) -> HeldOut:
    """Run the classifier over the first `limit` samples and over every transform of them.

    Raises
    ------
    InputError
        Empty loader; all samples are taken for one class; images come one per batch, so that there is none to mix with.
    """
    witness, ids, labels = Fingerprinter(), list[Activations](), list[Tensor | None]()
    outliers: dict[str, dict[str, list[Activations]]] = {g: {name: [] for name in groups[g]} for g in groups}
    images = True
    for inputs, batch_labels, index in track(_first(loader, limit), "held-out data", loader, shown=shown):
        witness.see(inputs)
        ids.append(classifier(inputs, index=index, **reads))
        labels.append(batch_labels)
        images = images and is_images(inputs)
        if not images or len(index) < 2:
            continue
        for group, transforms in groups.items():
            for name, transform in transforms.items():
                generator = Generator().manual_seed(seed + int(index[0]))
                outliers[group][name].append(classifier(transform(_pixels(inputs), generator), index=index, **reads))
    if not ids:
        raise InputError("the loader of held-out data yielded no batch. Check the path and the split.")
    known = [batch for batch in labels if batch is not None]
    whole = concatenate(ids)
    if whole.logits.shape[1] and bool((whole.predicted == whole.predicted[0]).all()):
        raise InputError(
            f"the classifier takes all {len(whole)} held-out samples for one class. They seem to be sorted by class: "
            "shuffle them, since pseudo-outliers are mixed of several classes."
        )
    made: dict[str, dict[str, Activations]] = {}
    if images:
        if max(map(len, ids)) < 2:
            raise InputError("held-out images come one per batch, and pseudo-outliers mix several: use larger batches.")
        made = {group: {name: concatenate(parts) for name, parts in sets.items()} for group, sets in outliers.items()}
    return HeldOut(whole, torch.cat(known).cpu() if len(known) == len(labels) else None, made, witness)


def is_images(inputs: Inputs) -> bool:
    """Whether a batch is one floating tensor (N, C, H, W) of more than a pixel."""
    if not isinstance(inputs, Tensor):
        return False
    return inputs.ndim == 4 and inputs.is_floating_point() and min(inputs.shape[2:]) > 1


def _pixels(inputs: Inputs) -> Tensor:
    assert isinstance(inputs, Tensor)
    return inputs


def _first(loader: Iterable[Any], limit: int) -> Iterator[tuple[Inputs, Tensor | None, Tensor]]:
    total = 0
    for batch in loader:
        inputs, labels, index = unpack(batch, total)
        left = limit - total
        total += len(index)
        if len(index) > left:
            inputs = _start(inputs, left)
            labels, index = None if labels is None else labels[:left], index[:left]
        yield inputs, labels, index
        if total >= limit:
            return


def _start(inputs: Inputs, length: int) -> Inputs:
    if isinstance(inputs, Mapping):
        return {name: value[:length] if isinstance(value, Tensor) else value for name, value in inputs.items()}
    return inputs[:length]
