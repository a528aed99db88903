"""Shapes of the tensors that a fitted detector keeps, in letters such as `C x D`, for `describe_method`."""

from __future__ import annotations

from oodline.detectors.base import Detector

LETTERS = {
    "C": "classes",
    "D": "features",
    "N": "training samples, as many as it keeps",
    "R": "a rank, or directions",
    "K": "channels, neurons or random features",
    "B": "bins",
    "H": "classes, or 1 where there are more than 2048",
    "M": "members",
    "G": "Gaussians, or groups of words",
    "Q": "points of a reference",
    "L": "layers",
    "W": "negative words of a group",
    "T": "predicted classes that were seen",
    "V": "bins of all neurons, or entries of all layers",
}
"""What the letters stand for."""


def state_shapes(detector: Detector) -> dict[str, str]:
    """Fitted tensors of the detector and its members with their shapes; empty where there is nothing to fit.

    Examples
    --------
    >>> from oodline import KNN, LINe
    >>> state_shapes(LINe())
    {'contribution_': 'C x D', 'largest': '1', 'threshold': 'C x D'}
    >>> state_shapes(KNN())
    {'neighbours': 'N x D'}
    """
    found = {name: " x ".join(declared.shape.split()) or "1" for name, declared in detector.fitted_tensors.items()}
    for attribute, member in detector.members:
        found |= {f"{attribute}.{name}": shape for name, shape in state_shapes(member).items()}
    return found
