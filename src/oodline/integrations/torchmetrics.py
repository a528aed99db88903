"""`OODMetrics`: the metrics of oodline as a torchmetrics metric, for loops, Lightning and several processes."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from oodline.errors import InputError, missing_extra
from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.metrics import compute_metrics

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ImportError as error:
    raise missing_extra("torchmetrics", "torchmetrics", "the metrics of torchmetrics") from error

__all__ = ["OODMetrics"]


class OODMetrics(Metric):  # type: ignore[misc]  # mypy does not follow torchmetrics
    """AUROC, both AUPRs and both FPRs at a TPR of 0.95, from scores that come batch by batch.

    The values are those of `oodline.evaluation.metrics`, exact on ties: all scores are kept, and gathered from all
    processes by torchmetrics where there are several. Keyword arguments are those of `torchmetrics.Metric`.

    `forward`, and `self.log("ood", metric)` of Lightning, compute the metrics of the batch as well, and raise where it
    holds only one kind; call `update` where that may be. The scores are kept all the same.

    Examples
    --------
    >>> metric = OODMetrics()
    >>> metric.update(torch.tensor([2.0, 3.0]), is_id=torch.tensor([True, True]))
    >>> metric.update(torch.tensor([1.0, 2.5]), is_id=torch.tensor([False, False]))
    >>> metric.compute()["auroc"]
    tensor(0.7500, dtype=torch.float64)
    >>> list(metric.compute())
    ['auroc', 'fpr95_id_positive', 'fpr95_ood_positive', 'aupr_in', 'aupr_out']
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    scores: list[Tensor]
    is_id: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("is_id", default=[], dist_reduce_fx="cat")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take the scores of a batch as `update` does, and compute the metrics of this batch alone.

        Raises
        ------
        InputError
            As `update`; or the batch holds only one kind, and then its scores are kept.
        """
        before = {**self.__dict__, **self._copy_state_dict()}
        try:
            return super().forward(*args, **kwargs)
        except Exception:
            self.__dict__.update(before)  # which torchmetrics has emptied, and does not restore after an error
            self.update(*args, **kwargs)  # raises again where it was this
            raise

    def update(self, scores: Tensor | ArrayLike, is_id: Tensor | ArrayLike) -> None:
        """Take the scores of a batch.

        Parameters
        ----------
        scores : Tensor, array or sequence (N,)
            Higher = more in-distribution, as every detector gives them.
        is_id : Tensor, array or sequence (N,), or bool
            Which samples are in-distribution, as truth values or 0 and 1; one value where all are the same.

        Raises
        ------
        InputError
            The shapes differ, a score is NaN or no number, or `is_id` holds something else than truth values.
        """
        scores = scores if isinstance(scores, Tensor) else _tensor("scores", scores, self.device)
        known = is_id.to(scores.device) if isinstance(is_id, Tensor) else _tensor("is_id", is_id, scores.device)
        if known.ndim == 0:
            known = known.expand(scores.shape)
        if scores.ndim != 1 or known.shape != scores.shape:
            raise InputError(
                f"`scores` and `is_id` must be (N,); got {tuple(scores.shape)} and {tuple(known.shape)}. Give one "
                "score and one truth value per sample."
            )
        if scores.is_complex() or scores.dtype == torch.bool:
            raise InputError(f"`scores` must be real numbers; got {scores.dtype}. Are they given in the other order?")
        if bool(torch.isnan(scores).any()):
            raise InputError(f"`scores` must not be NaN; got {int(torch.isnan(scores).sum())} of {len(scores)}.")
        if not bool(((known == 0) | (known == 1)).all()):
            raise InputError("`is_id` must be true or 1 for ID samples, and false or 0 for OOD ones.")
        self.scores.append(scores.detach().to(_kind(scores.device)))
        self.is_id.append(known.bool())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the scores of all processes; called by torchmetrics before `compute`."""
        if not self.scores:
            # torchmetrics would send float32 for a process without samples, and the others wait for their own kinds
            self.scores = [torch.zeros(0, dtype=_kind(self.device), device=self.device)]
            self.is_id = [torch.zeros(0, dtype=torch.bool, device=self.device)]
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """Every metric by its name in oodline, float64 in [0, 1]; see `oodline.evaluation.metric.METRICS`.

        Raises
        ------
        InputError
            There is no ID score yet, or no OOD score.
        """
        if not len(self.scores):
            raise InputError("there are no scores yet. Call update(scores, is_id) first.")
        scores, is_id = dim_zero_cat(self.scores).cpu().double(), dim_zero_cat(self.is_id).cpu().bool()
        ours, theirs = (scores[chosen].numpy() for chosen in (is_id, ~is_id))
        for name, values in (("ID", ours), ("OOD", theirs)):
            if not len(values):
                raise InputError(f"there are no {name} scores among the {len(scores)} so far, and metrics need both.")
        found, kind = compute_metrics(ours, theirs), _kind(self.device)
        return {name: torch.tensor(getattr(found, name), dtype=kind, device=self.device) for name in METRICS}


def _tensor(name: str, values: Any, device: torch.device) -> Tensor:
    try:
        return torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:  # what torch says of strings, None, and rows of many lengths
        raise InputError(
            f"`{name}` must be a tensor, an array or a list of numbers; got {type(values).__name__}: "
            f"{str(error).splitlines()[0]}."
        ) from error


def _kind(device: torch.device) -> torch.dtype:
    """The same for all scores, of whatever precision, so that processes can gather them."""
    return torch.float32 if device.type == "mps" else torch.float64  # which has no double precision
