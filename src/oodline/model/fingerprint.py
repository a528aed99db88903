"""Fingerprint the weights of a classifier, one short digest per tensor, so that a difference can be named.

A head alone does not tell one classifier from another: with another first layer, or with batch-norm statistics that
moved, the same head reads features that no threshold was made for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from oodline._util.digests import digest

DIGITS = 16
"""Hexadecimal digits of a tensor's digest: 64 bits find damage and other weights; they are not a signature."""

COUNTER = "num_batches_tracked"
"""The last part of the name of batch-norm's counter, which takes no part in inference."""

WRAPPERS = ("_orig_mod.", "module.")
"""What `torch.compile` and the data-parallel wrappers put in front of names."""

SHOWN = 3
"""Names of differing tensors that a message shows."""


class OtherWeightsWarning(UserWarning):
    """A guard is used with a classifier that is not the one it was calibrated on, as somebody asked for."""


@dataclass(frozen=True)
class Fingerprint:
    """Digests of all weights and buffers of a model, by name.

    Values are digested as float32, so that a device or a layout in memory makes no difference, and neither does a
    wider type that holds the same values. Half precision rounds the values, and with them the digests: `difference`
    then says that the precision is another one.

    Parameters
    ----------
    tensors : mapping of str to str
        Digest of each tensor of the `state_dict`; "" where it has no values to compare (not loaded, or it changes in
        each pass).
    unsaved : mapping of str to str
        As `tensors`, for buffers that the model leaves out of its `state_dict`. They may come and go with the size of
        the inputs, so only those that both sides have in one size are compared.
    precision : str
        The floating-point type that most values have, such as "float32".

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> one, other = Fingerprint.of(nn.Linear(2, 2)), Fingerprint.of(nn.Linear(2, 2))
    >>> one.difference(other)
    "2 of 2 tensors differ: 'weight', 'bias'"
    """

    tensors: Mapping[str, str]
    unsaved: Mapping[str, str] = field(default_factory=dict)
    precision: str = ""

    @classmethod
    def of(cls, model: nn.Module, volatile: Collection[str] = ()) -> Fingerprint:
        """Digest a model's tensors, except those named in `volatile`, whose digest is ""."""
        found: dict[str, str] = {}
        unsaved: dict[str, str] = {}
        sizes: Counter[str] = Counter()
        for name, tensor, is_saved in all_tensors(model):
            if name.endswith(COUNTER):
                continue
            (found if is_saved else unsaved)[name] = "" if name in volatile else _digest(tensor)
            if tensor.is_floating_point():
                sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
        precision = sizes.most_common(1)[0][0] if sizes else ""
        return cls(_plain(found), _plain(unsaved), precision)

    @property
    def volatile(self) -> frozenset[str]:
        """Names of the tensors that have no values to compare."""
        return frozenset(name for name, digest in {**self.tensors, **self.unsaved}.items() if not digest)

    def difference(self, other: Fingerprint) -> str:
        """Say in a few words how `other` differs from this one; "" where it does not."""
        if _same(self.tensors, other.tensors):
            sizes = {name: digest.partition(":")[0] for name, digest in self.unsaved.items()}
            changed = [
                name
                for name, digest in other.unsaved.items()
                if name in sizes and digest.startswith(f"{sizes[name]}:") and not _equal(self.unsaved[name], digest)
            ]
            return f"buffers that are not saved differ: {_listed(changed)}" if changed else ""
        missing = [name for name in self.tensors if name not in other.tensors]
        added = [name for name in other.tensors if name not in self.tensors]
        if missing or added:
            parts = [f"{len(missing)} tensors are missing ({_listed(missing)})"] if missing else []
            parts += [f"{len(added)} are new ({_listed(added)})"] if added else []
            return ", ".join(parts)
        differing = [name for name, digest in self.tensors.items() if not _equal(digest, other.tensors[name])]
        if self.precision != other.precision:
            return (
                f"the values are {other.precision} where they were {self.precision}, and {len(differing)} of "
                f"{len(self.tensors)} tensors differ by at least this rounding"
            )
        return f"{len(differing)} of {len(self.tensors)} tensors differ: {_listed(differing)}"


def all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Name and value of every weight and buffer, and whether the model saves it; tied ones under each name.

    Examples
    --------
    >>> [(name, is_saved) for name, _, is_saved in all_tensors(nn.BatchNorm1d(2, affine=False))]
    [('running_mean', True), ('running_var', True), ('num_batches_tracked', True)]
    """
    known = set()
    for name, value in model.state_dict().items():
        for suffix, tensor in _tensors_in(value):
            known.add(name + suffix)
            yield name + suffix, tensor, True
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        if name not in known:
            yield name, tensor.detach(), False


def _tensors_in(value: Any) -> Iterator[tuple[str, Tensor]]:
    # layers of integers keep their weights in tuples
    if isinstance(value, Tensor):
        yield "", value.detach()
    elif isinstance(value, tuple | list):
        for place, part in enumerate(value):
            for suffix, tensor in _tensors_in(part):
                yield f"[{place}]{suffix}", tensor


def _digest(tensor: Tensor) -> str:
    if tensor.is_meta or nn.parameter.is_lazy(tensor):
        return ""
    values = tensor.dequantize() if tensor.is_quantized else tensor
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    values = values.to("cpu", torch.float32 if values.is_floating_point() else torch.int64)
    values = values.to_dense() if values.layout != torch.strided else values
    shape = "x".join(map(str, values.shape))
    return f"{shape}:{digest(shape, values)[:DIGITS]}"


def _plain(tensors: Mapping[str, str]) -> dict[str, str]:
    names = dict(tensors)
    for wrapper in WRAPPERS:
        while names and all(name.startswith(wrapper) for name in names):
            names = {name.removeprefix(wrapper): digest for name, digest in names.items()}
    return names


def _same(known: Mapping[str, str], now: Mapping[str, str]) -> bool:
    if known.keys() == now.keys():
        return all(_equal(digest, now[name]) for name, digest in known.items())
    # the same tensors in the same order, under other names: the model was put into another module
    return len(known) == len(now) and all(map(_equal, known.values(), now.values()))


def _equal(one: str, other: str) -> bool:
    return one == other or not one or not other


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
