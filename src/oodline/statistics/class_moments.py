"""Count, mean and variance of a source for each class, merged by the pairwise rule of Chan et al. (1983)."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from oodline.errors import LabelError, SettingError
from oodline.model.activations import Activations
from oodline.statistics.base import Statistic
from oodline.statistics.sources import Features, Grouping, Source, group


class ClassMoments(Statistic):
    """Per-class count (C,), mean (C, K) and sum of squared deviations (C, K), all float64.

    Parameters
    ----------
    of : Source
        What to average; features by default.
    by : {"label", "predicted", "correct", "all"}
        Grouping by the true label; by the classifier's argmax; by label with one further group, the last, of all that
        is misclassified; or everything as one group.
    variance : bool
        Whether to keep the squared deviations, which doubles the size.

    Examples
    --------
    >>> from oodline.model.activations import Activations
    >>> from oodline.model.head import LinearHead
    >>> head = LinearHead(torch.eye(2), torch.zeros(2))
    >>> f = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    >>> moments = ClassMoments()
    >>> moments.update(Activations(f, head(f), head, torch.arange(3)), torch.tensor([0, 0, 1]))
    >>> moments.mean
    tensor([[2., 0.],
            [0., 5.]], dtype=torch.float64)
    """

    tensors: ClassVar = ("count", "mean", "deviations")

    def __init__(self, of: Source | None = None, by: Grouping = "label", *, variance: bool = False) -> None:
        self.of = of if of is not None else Features()
        self.by = by
        self.variance = variance
        self.count: Int[Tensor, " c"] = None  # type: ignore[assignment]
        self.mean: Float[Tensor, "c k"] = None  # type: ignore[assignment]
        self.deviations: Float[Tensor, "c k"] = None  # type: ignore[assignment]

    @property
    def key(self) -> tuple[object, ...]:
        """The class, source, grouping, and whether variances are kept."""
        return (type(self).__name__, self.of, self.by, self.variance)

    @property
    def total(self) -> int:
        """Number of samples seen."""
        return 0 if self.empty else int(self.count.sum())

    @property
    def overall_mean(self) -> Float[Tensor, " k"]:
        """Mean over all samples (K,)."""
        return (self.mean * self.count.unsqueeze(1)).sum(0) / self.total

    def check_every_class(self, at_least: int = 1, otherwise: str = "") -> None:
        """Raise `LabelError`, naming the classes, where a class has fewer than `at_least` samples.

        `otherwise` is what else the reader of the error can do.
        """
        few = torch.nonzero(self.count < at_least).flatten().tolist()
        if few:
            names = ", ".join(str(c) for c in few[:10]) + (", ..." if len(few) > 10 else "")
            lack = "no sample" if at_least == 1 else f"fewer than {at_least} samples"
            raise LabelError(
                f"{len(few)} of {len(self.count)} classes have {lack} among the {self.total} "
                f"that were seen: {names}. Fit on data that shows every class the head knows{otherwise}."
            )

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Take in one batch; see `Statistic.update`."""
        groups, classes = group(activations, labels, self.by)
        self.absorb_batch(self.of(activations, groups).to("cpu", torch.float64), groups, classes)

    def absorb_batch(
        self, values: Float[Tensor, "n k"], groups: Int[Tensor, " n"], classes: int
    ) -> tuple[Float[Tensor, "g k"], Int[Tensor, " n"], Float[Tensor, "g k"]]:
        """Take in float64 values.

        Returns, for each class present, the batch's own mean (G, K), with the row of it that each sample belongs to
        (N,), and the step (G, K) whose outer product is what the change of that class's mean adds to its scatter: what
        a covariance needs.
        """
        if self.empty:
            self.count = torch.zeros(classes, dtype=torch.int64)
            self.mean = torch.zeros(classes, values.shape[1], dtype=torch.float64)
            self.deviations = torch.zeros_like(self.mean if self.variance else self.mean[:, :0])
        present, inverse, counts = torch.unique(groups, return_inverse=True, return_counts=True)
        mean = _sums(values, inverse, len(present)) / counts.unsqueeze(1)
        squares = self.deviations[:0]
        if self.variance:
            squares = _sums((values - mean[inverse]).square(), inverse, len(present))
        return mean, inverse, self._combine(present, counts, mean, squares)

    def _combine(self, rows: Tensor, counts: Tensor, mean: Tensor, squares: Tensor) -> Tensor:
        before = self.count[rows].double()
        after = before + counts
        delta = mean - self.mean[rows]
        step = delta * (before * counts / after).sqrt().unsqueeze(1)
        self.count[rows] += counts
        self.mean[rows] += delta * (counts / after).unsqueeze(1)
        if self.variance:
            self.deviations[rows] += squares + step.square()
        return step

    def _absorb(self, other: Self) -> None:
        rows = torch.nonzero(other.count).flatten()
        self._combine(rows, other.count[rows], other.mean[rows], other.deviations[rows])

    def standard_deviation(self, unbiased: bool = True) -> Float[Tensor, "c k"]:
        """Per-class standard deviation (C, K).

        Raises
        ------
        SettingError
            The statistic was not built with `variance=True`.
        """
        if not self.variance:
            raise SettingError("squared deviations are kept only by ClassMoments(variance=True).")
        degrees = (self.count - int(unbiased)).clamp(min=1).unsqueeze(1)
        return (self.deviations / degrees).sqrt()


def _sums(values: Tensor, rows: Tensor, count: int) -> Tensor:
    if count == 1:
        return values.sum(0, keepdim=True)
    return values.new_zeros(count, values.shape[1]).index_add_(0, rows, values)
