"""What a fitted detector keeps, as shapes in letters, found by fitting it at two sizes and comparing."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from oodline.detectors.base import Detector
from oodline.errors import AssumptionWarning
from oodline.model.classifier import Classifier

LETTERS = {"C": "classes", "D": "features", "N": "training samples, as many as its bank holds", "r": "a rank, below D"}
"""What the letters stand for."""

# pairwise coprime, so that a product or a setting is not taken for a size
_SIZES = ({"C": 7, "D": 31, "N": 101}, {"C": 11, "D": 37, "N": 149})
_SMALL = {"k": 10, "size": 61, "repeats": 5}
"""Settings that would need more samples or time than two small fits have; a dimension of that length takes the name."""


def state_shapes(detector: type[Detector]) -> dict[str, str]:
    """Buffers of the detector and its members with their shapes; empty where there is nothing to fit.

    Examples
    --------
    >>> from oodline import KNN, LINe
    >>> state_shapes(LINe)
    {'contribution_': 'C x D', 'threshold': 'C x D', 'largest': '1'}
    >>> state_shapes(KNN)
    {'neighbours': 'N x D'}
    """
    one, other = (_shapes(detector, **size) for size in _SIZES)
    return {name: " x ".join(map(_letter, one[name], other[name])) or "1" for name in one}


def _shapes(detector: type[Detector], C: int, D: int, N: int) -> dict[str, tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(D, C)
    with torch.no_grad():
        head.weight.copy_(torch.randn(C, D, generator=generator))
        head.bias.zero_()
    labels = torch.arange(N) % C
    own = head.weight.detach()[labels].clamp(min=0)
    images = (own + 0.1 * torch.rand(N, D, generator=generator))[:, :, None, None] * torch.rand(
        2, 2, generator=generator
    )
    made = detector(**{name: value for name, value in _SMALL.items() if name in detector().settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)  # it is made-up data
        made.fit(Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)), [(images, labels)])
    # every fitted detector also keeps the same short sketch of the data that it has seen
    state = {name: value for name, value in made.state_dict().items() if name.rpartition(".")[2] != "seen"}
    return {name: tuple(value.shape) for name, value in state.items()}


def _letter(one: int, other: int) -> str:
    if one == other:
        return next((name for name, value in _SMALL.items() if value == one), str(one))
    for letter in LETTERS:
        first, second = (size.get(letter, 0) for size in _SIZES)
        if first and one % first == 0 and one // first * second == other:
            return letter if one == first else f"{one // first} {letter}"
    return "r"
