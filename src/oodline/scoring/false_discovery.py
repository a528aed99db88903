"""Flag OOD inputs of a batch at a bounded false discovery rate (Benjamini and Hochberg, JRSS B 1995)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Rate
from oodline.errors import InputError


@checked
def benjamini_hochberg(p_values: Float[Tensor, " n"], fdr: Rate = 0.1) -> Bool[Tensor, " n"]:
    """Flag the inputs of a batch such that, on average, at most a fraction `fdr` of those flagged is ID.

    With `p_(i)` the i-th smallest of N p-values, the i smallest are flagged for the largest i with
    `p_(i) <= fdr i / N`. The p-values of one calibration depend on each other through its scores, but only in a way
    that keeps the promise where the inputs are independent (Bates et al., Annals of Statistics 2023).

    Parameters
    ----------
    p_values : Tensor (N,)
        Of "this input is in-distribution", conservative or with ties broken at random.
    fdr : float
        False discovery rate, in (0, 1). A false-alarm rate speaks of the ID inputs; this one of the flagged.

    Returns
    -------
    Tensor (N,), bool
        Whether each is flagged.

    Raises
    ------
    SettingError
        `fdr` is outside (0, 1).
    InputError
        The p-values are not one row of numbers in [0, 1].

    Examples
    --------
    >>> benjamini_hochberg(torch.tensor([0.01, 0.9, 0.06, 0.02]), fdr=0.1)
    tensor([ True, False,  True,  True])
    """
    if p_values.ndim != 1:
        raise InputError(f"`p_values` must be one row (N,); got shape {tuple(p_values.shape)}.")
    if bad := int((~((p_values >= 0) & (p_values <= 1))).sum()):
        raise InputError(f"`p_values` must be in [0, 1]; {bad} of {len(p_values)} are not, or are NaN.")
    ascending = p_values.double().sort().values
    n = len(ascending)
    steps = torch.arange(1, n + 1, dtype=torch.float64, device=ascending.device)
    below = torch.nonzero(ascending * n <= fdr * steps).flatten()
    if len(below) == 0:
        return torch.zeros_like(p_values, dtype=torch.bool)
    return p_values.double() <= ascending[below[-1]]
