"""Names of data sets that are given as PATH or NAME=PATH."""

from __future__ import annotations

SAYS_LITTLE = ("test", "train", "val", "valid", "validation", "data", "images")
"""Names of files that are the same for many data sets."""


def split_name(spec: str) -> tuple[str, str]:
    """Name and path of `NAME=PATH`; the name is empty where there is none.

    Examples
    --------
    >>> split_name("far=textures/"), split_name("torchvision:SVHN,root=data")
    (('far', 'textures/'), ('', 'torchvision:SVHN,root=data'))
    """
    before, equals, after = spec.partition("=")
    return (before, after) if equals and not any(c in before for c in "/\\:,.") else ("", spec)
