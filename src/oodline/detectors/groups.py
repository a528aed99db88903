"""The detectors of the catalog by what they look at, for lists that people read."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "several detectors as one; the default is made of it": ("fuse",),
    "important neurons and weights of the predicted class": ("line", "band-energy"),
    "logits": (
        *("msp", "max-logit", "energy", "entropy", "gen", "temperature-scaling", "kl-matching", "openmax"),
        *("prior-normalised", "joint-energy", "nll"),
    ),
    "features clipped, pruned, scaled or shaped, then scored": (
        *("react", "vra", "bats", "ras", "ash-s", "ash-p", "ash-b", "scale", "adascale", "optfs", "rankfeat", "ddcs"),
        "lts",
    ),
    "weights of the head masked or perturbed, then scored": ("dice", "itp", "fm-pls", "weiper-msp", "weiper-kld"),
    "distance to classes or to training samples": (
        *("mahalanobis", "relative-mahalanobis", "gmm", "knn", "nnguide", "relation", "she", "caref", "cadref"),
        *("conjnorm", "fdbd", "ora", "nci"),
    ),
    "subspaces of the features": ("vim", "residual", "neco", "cop", "corp"),
    "norms, gradients, coverage": ("feature-norm", "gradnorm", "nac", "odin", "i-odin", "pro"),
    "class texts, and words beside them: zero-shot classifiers": ("mcm", "neglabel"),
    "feature map": ("nap", "nap-combined", "mode-csd", "map-agreement"),
    "several layers": ("layered-mahalanobis", "gram"),
    "experimental: something of the method is not published": ("hact", "sisom", "fisher-gradnorm", "soft-line"),
}
"""What is looked at, with the names."""

OWN = "your own"
"""The group of detectors that are not in the catalog."""


def group_of(name: str) -> str:
    """What the detector of this name looks at.

    Examples
    --------
    >>> group_of("energy"), group_of("mine")
    ('logits', 'your own')
    """
    return next((group for group, names in GROUPS.items() if name in names), OWN)
