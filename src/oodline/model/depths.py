"""Four depths of a network, chosen by its structure: where `layers="auto"` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import takewhile

from torch import nn

DEPTHS = 4
"""As many as papers on layered detectors read."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_SKIPPED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def depths(model: nn.Module, head: str = "", count: int = DEPTHS) -> tuple[str, ...]:
    """Names of at most `count` modules that lie evenly over the depth, the last one before the head among them.

    They are blocks: modules of modules whose class occurs again beside them, as residual blocks, dense blocks, stages
    and transformer layers do; the outermost that are at least `count`. A network without that many has its single
    layers before the head (but identities and dropout) taken in their place. The order is that in which modules were
    registered, which is the order of execution in all but a few networks.

    Parameters
    ----------
    model : nn.Module
        The network.
    head : str
        Name of its head, which is left out with all that is in it.
    count : int
        How many.

    Examples
    --------
    >>> from torchvision.models import resnet18
    >>> depths(resnet18(), "fc")
    ('layer1.1', 'layer2.1', 'layer3.1', 'layer4.1')
    >>> depths(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "2")
    ('0', '1')
    """
    found = _blocks(model, "", head, count)
    if len(found) < count:
        leaves = [(name, m) for name, m in model.named_modules() if name and not any(True for _ in m.children())]
        before = takewhile(lambda leaf: not _is_within(leaf[0], head), leaves)
        found = [name for name, m in before if not isinstance(m, _SKIPPED)]
    places = [round((i + 1) * len(found) / count) - 1 for i in range(count)]
    return tuple(dict.fromkeys(found[place] for place in places if place >= 0))


def _blocks(module: nn.Module, prefix: str, head: str, count: int) -> list[str]:
    """Names of the outermost repeated blocks below a module, or of those further in where they are fewer than asked."""
    outermost = [(name, m) for name, m in _outermost(module, prefix) if not _is_within(name, head)]
    occurs = Counter(type(m) for _, m in outermost)
    here = [name for name, m in outermost if occurs[type(m)] > 1]
    if len(here) >= count:
        return here
    inner = [_blocks(m, f"{name}.", head, count) for name, m in outermost]
    return max([here, *inner, [name for names in inner for name in names]], key=len)


def _outermost(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules made of modules that are in no other one, looking through plain containers."""
    for name, child in module.named_children():
        if type(child) in _CONTAINERS:
            yield from _outermost(child, f"{prefix}{name}.")
        elif any(True for _ in child.children()):
            yield f"{prefix}{name}", child


def _is_within(name: str, head: str) -> bool:
    return bool(head) and (name == head or name.startswith(f"{head}."))
