"""Long-tailed data: splits by the ratio of the rarest class to the commonest, and AUROC by how common classes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Count, Range, Seed
from oodline.errors import LabelError, SettingError
from oodline.evaluation.metrics import auroc

Ratio = Annotated[float, Range(0, 1, above=True)]


@checked
def long_tail_counts(largest: Count, num_classes: Count, rho: Ratio) -> list[int]:
    """Samples of each class, falling exponentially from `largest` to `rho` times that, rounded down; at least 1.

    As in the long-tailed CIFAR sets (Cui et al., CVPR 2019; Cao et al., NeurIPS 2019).

    Parameters
    ----------
    largest : int
        Samples of class 0.
    num_classes : int
        Number of classes C.
    rho : float
        In (0, 1]; 0.01 for a hundredth.

    Examples
    --------
    >>> long_tail_counts(5000, 10, 0.01)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    return [max(1, int(largest * rho ** (c / max(1, num_classes - 1)))) for c in range(num_classes)]


@checked
def long_tail_rows(labels: Tensor, rho: Ratio, *, seed: Seed | None = None) -> Int[Tensor, " m"]:
    """Positions of a long-tailed part of a labelled set, in ascending order.

    The largest class keeps as many samples as the smallest class of the set has, so that the counts can be met.

    Parameters
    ----------
    labels : Tensor (N,)
        Classes from 0.
    rho : float
        Samples of the last class over those of the first, in (0, 1].
    seed : int, optional
        Which samples of a class are taken, at random; its first ones if omitted, as in the authors' code.

    Raises
    ------
    LabelError
        A class has no sample.

    Examples
    --------
    >>> labels = torch.arange(30) % 3
    >>> torch.bincount(labels[long_tail_rows(labels, 0.1)])
    tensor([10,  3,  1])
    """
    counts = torch.bincount(labels)
    if bool((counts == 0).any()):
        raise LabelError(f"class {int((counts == 0).nonzero()[0])} has no sample, and every class needs one.")
    wanted = long_tail_counts(int(counts.min()), len(counts), rho)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    chosen = []
    for label, count in enumerate(wanted):
        rows = torch.nonzero(labels == label).flatten()
        order = torch.arange(len(rows)) if generator is None else torch.randperm(len(rows), generator=generator)
        chosen.append(rows[order[:count]])
    return torch.cat(chosen).sort().values


@checked
def class_groups(class_counts: Sequence[int]) -> dict[str, list[int]]:
    """Classes in three groups, by how many training samples they have: head, middle and tail.

    A third of the classes each, rounded down for head and tail, as in the long-tailed CIFAR sets (of ten, three, four
    and three).

    Raises
    ------
    SettingError
        There are fewer than three classes.

    Examples
    --------
    >>> class_groups([9, 1, 5, 7])
    {'head': [0], 'middle': [3, 2], 'tail': [1]}
    """
    if len(class_counts) < 3:
        raise SettingError(f"`class_counts` must be of at least 3 classes; got {len(class_counts)}.")
    order = np.argsort(-np.asarray(class_counts), kind="stable").tolist()
    third = len(order) // 3
    return {"head": order[:third], "middle": order[third : len(order) - third], "tail": order[len(order) - third :]}


def auroc_by_group(
    scores: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    ood_scores: Float[Tensor, " m"],
    groups: Mapping[str, Sequence[int]],
) -> dict[str, float]:
    """AUROC of the ID samples of some classes against all OOD samples, in [0, 1], by group.

    Parameters
    ----------
    scores : Tensor (N,)
        Of ID samples; higher = more in-distribution.
    labels : Tensor (N,)
        Their classes.
    ood_scores : Tensor (M,)
        Of OOD samples.
    groups : mapping of str to sequence of int
        Classes by group, as `class_groups` gives them.

    Raises
    ------
    LabelError
        No sample is of a group's classes.

    Examples
    --------
    >>> scores, labels = torch.tensor([3.0, 2.0, 0.0]), torch.tensor([0, 0, 1])
    >>> auroc_by_group(scores, labels, torch.tensor([1.0]), {"head": [0], "tail": [1]})
    {'head': 1.0, 'tail': 0.0}
    """
    found = {}
    for name, classes in groups.items():
        members = torch.isin(labels, torch.tensor(list(classes)))
        if not bool(members.any()):
            raise LabelError(f"no sample is of the classes of '{name}': {', '.join(map(str, classes))}.")
        found[name] = auroc(scores[members], ood_scores)
    return found
