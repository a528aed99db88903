"""Detect changes of a model's modules and tensors, cheaply enough to run at every verdict.

Most changes are found without reading values: another module or tensor in a place, or another version counter, which
PyTorch increments with each in-place operation. Writes through `.data` and by batch-norm in training mode do not
increment it, so a few values of each tensor are compared as well. If any of these differs, digests of all values
decide: moving a model to another device is not a change.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from oodline.model.fingerprint import Fingerprint, all_tensors

SAMPLED = 32
"""Values of each tensor that are compared, evenly spaced, the first among them; of a tensor this small, all of them."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
"""As which values are compared, by the bytes of each: NaN is then the same as before."""

PLAIN = (bool, int, float, str, tuple, type(None))
"""Kinds of attributes that are settings."""


class Snapshot:
    """What a module holds now: its parts, its tensors and, where asked for, its settings.

    A write through `.data` to a few values of a large tensor goes unnoticed here; a file's fingerprint would show it.

    Parameters
    ----------
    module : nn.Module
        Not copied; only a few of its values and digests are kept.
    settings : bool
        Compare plain attributes too, such as the `k` of a detector.
    volatile : collection of str
        Tensors that each pass changes, which are left out.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> before = Snapshot(layer)
    >>> before.change()
    ''
    >>> _ = layer.weight.data.fill_(3.0)
    >>> before.change()
    "1 of 2 tensors differ: 'weight'"
    """

    def __init__(self, module: nn.Module, *, settings: bool = False, volatile: frozenset[str] = frozenset()) -> None:
        self.module = module
        self.volatile = volatile
        self.fingerprint = Fingerprint.of(module, volatile)
        self._settings = [(m, _plain(m)) for m in module.modules()] if settings else []
        self._trace = _Trace(module, volatile)

    def change(self) -> str:
        """Say in a few words what changed since; "" where nothing did."""
        for module, known in self._settings:
            if (now := _plain(module)) != known:
                names = [name for name in {**known, **now} if known.get(name) != now.get(name)]
                return f"{type(module).__name__} has another {', '.join(names)}"
        if self._trace.intact():
            return ""
        difference = self.fingerprint.difference(Fingerprint.of(self.module, self.volatile))
        if not difference:
            self._trace = _Trace(self.module, self.volatile)
        return difference

    def touched(self) -> frozenset[str]:
        """Names of the tensors that were written to since, by the traces alone."""
        return self._trace.touched()


class Behaviour:
    """What decides how a module computes beside its tensors: classes, plain attributes, hooks, a `forward` of its own.

    Such a change may be harmless: who asks runs the module, and takes a new record where its numbers are the same.

    Parameters
    ----------
    module : nn.Module
        Not copied.
    volatile : set of (int, str)
        Which submodule, and which attribute of it, a pass itself writes, such as a counter; these are left out.

    Examples
    --------
    >>> layer = nn.BatchNorm1d(2)
    >>> before = Behaviour(layer)
    >>> layer.eps = 50.0
    >>> before.changed(), before.describe(before.changed())
    (frozenset({(0, 'eps')}), "another 'eps' in BatchNorm1d")
    """

    def __init__(self, module: nn.Module, volatile: frozenset[tuple[int, str]] = frozenset()) -> None:
        self.volatile = volatile
        self._known = [(m, _behaviour(m)) for m in module.modules()]
        # looked at for every verdict: a list of the same objects is compared in no time
        plain = [(m, tuple(_plain(m))) for m in module.modules()]
        self._quick = [(type(m), names, [*map(vars(m).get, names)], _counts(vars(m))) for m, names in plain]

    def changed(self) -> frozenset[tuple[int, str]]:
        """Which attributes of which submodule are others now."""
        found = set()
        for i, ((module, known), (kind, names, values, counts)) in enumerate(
            zip(self._known, self._quick, strict=True)
        ):
            own = vars(module)
            if type(module) is kind and [*map(own.get, names)] == values and _counts(own) == counts:
                continue
            now = _behaviour(module)
            found |= {(i, name) for name in {**known, **now} if known.get(name) != now.get(name)}
        return frozenset(found) - self.volatile

    def describe(self, changed: frozenset[tuple[int, str]]) -> str:
        """The first few of these, in words."""
        found = [f"another '{name}' in {type(self._known[i][0]).__name__}" for i, name in sorted(changed)]
        return ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")


class _Trace:
    """Identities, versions and a few values of a module's tensors."""

    def __init__(self, module: nn.Module, volatile: frozenset[str]) -> None:
        self._module = module
        places = [vars(m).get(kind) for m in module.modules() for kind in ("_modules", "_parameters", "_buffers")]
        self._places = [(place, dict(place)) for place in places if isinstance(place, dict)]
        kept = {n: t for n, t, _ in all_tensors(module) if n not in volatile and not t.is_meta and not t.is_quantized}
        self._versions = {name: (tensor, _version(tensor)) for name, tensor in kept.items()}
        # `model.to(...)` leaves a parameter the object it was, and gives it other memory
        self._addresses = [(p, p.data_ptr()) for p in module.parameters() if not p.is_meta]
        few = [_few(t) for t in kept.values() if t.numel() and t.layout == torch.strided]
        # in memory at hand, bytes are compared in a tenth of the time that a kernel takes
        self._few = [values.numpy() for values in few if values.device.type == "cpu"]
        self._known = [view.tobytes() for view in self._few]
        groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for there in few:
            if there.device.type != "cpu":
                groups[there.device, there.dtype].append(there)
        self._elsewhere = [(views, torch.cat(views)) for views in groups.values()]

    def intact(self) -> bool:
        return (
            all(len(place) == len(known) for place, known in self._places)
            and all(place.get(name) is one for place, known in self._places for name, one in known.items())
            and all(_version(tensor) == version for tensor, version in self._versions.values())
            and all(p.data_ptr() == address for p, address in self._addresses)
            and [few.tobytes() for few in self._few] == self._known
            and all(torch.equal(torch.cat(views), known) for views, known in self._elsewhere)
        )

    def touched(self) -> frozenset[str]:
        now = {name: tensor for name, tensor, _ in all_tensors(self._module)}
        return frozenset(
            name
            for name, (tensor, version) in self._versions.items()
            if name not in now or now[name].data_ptr() != tensor.data_ptr() or _version(now[name]) != version
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _few(tensor: Tensor) -> Tensor:
    # a view, so that it shows the values as they are at any later time
    steps = max(1, tensor.numel() // SAMPLED)
    count = (tensor.numel() + steps - 1) // steps
    if tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last):
        few = torch.as_strided(tensor, (count,), (steps,), tensor.storage_offset())
    else:
        few = tensor[(0,) * tensor.ndim].reshape(1)
    return few.view(INTEGERS[few.element_size()])


def _counts(own: dict[str, Any]) -> tuple[int, int, int]:
    return len(own), len(own.get("_forward_hooks", ())), len(own.get("_forward_pre_hooks", ()))


def _behaviour(module: nn.Module) -> dict[str, Any]:
    found = _plain(module)
    found["class"], found["forward"] = type(module), vars(module).get("forward")
    if module._forward_hooks or module._forward_pre_hooks:
        found["hooks"] = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return found


def _plain(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if isinstance(v, PLAIN) and k != "training"}
