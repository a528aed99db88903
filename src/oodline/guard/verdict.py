"""`Verdict`: scores, p-values and decisions of a guard for a batch of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline.errors import InputError
from oodline.scoring.class_calibration import AnyCalibration
from oodline.scoring.false_discovery import benjamini_hochberg


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a guard says of a batch of N inputs.

    Parameters
    ----------
    label : Tensor (N,), int64
        Class with the largest logit, also where the input is flagged.
    score : Tensor (N,)
        The detector's score, higher = more in-distribution.
    is_ood : Tensor (N,), bool
        Whether the score is below the threshold: whether the p-value is at most the promised false-alarm rate.
    p_value : Tensor (N,), float64
        In (0, 1]: how usual the score is among held-out ID inputs; see `Calibration.p_value`.
    threshold : Tensor (N,), float64
        What each score was compared with: the same for all, or that of the predicted class.
    class_names : tuple of str, optional
        In the order of the logits.
    labels : Tensor (N, C), bool, optional
        Of a multi-label classifier: which labels apply, by a logit above 0, a probability above one half; also where
        the input is flagged. `label` is then the most probable one, whether it applies or not.

    Examples
    --------
    >>> one = torch.ones(1)
    >>> Verdict(one.long(), one, one < 2, one.double(), 2 * one.double(), ("cat", "dog")).rows()[0]["class_name"]
    'dog'
    """

    label: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    is_ood: Bool[Tensor, " n"]
    p_value: Float[Tensor, " n"]
    threshold: Float[Tensor, " n"]
    class_names: tuple[str, ...] | None = None
    labels: Bool[Tensor, "n c"] | None = None

    @classmethod
    def of(
        cls,
        score: Float[Tensor, " n"],
        label: Int[Tensor, " n"],
        calibration: AnyCalibration,
        class_names: tuple[str, ...] | None = None,
        labels: Bool[Tensor, "n c"] | None = None,
    ) -> Self:
        """The verdict on scores; raises `InputError` where one is NaN or infinite."""
        if not bool(torch.isfinite(score).all()):
            raise InputError(f"{int((~torch.isfinite(score)).sum())} of {len(score)} scores are NaN or infinite.")
        return cls(
            label=label,
            score=score,
            is_ood=calibration.is_ood(score, label),
            p_value=calibration.p_value(score, label),
            threshold=calibration.threshold_of(label),
            class_names=class_names,
            labels=labels,
        )

    def __len__(self) -> int:
        return len(self.label)

    def discoveries(self, fdr: float = 0.1) -> Bool[Tensor, " n"]:
        """Whether each of the batch is flagged (N,) when at most a fraction `fdr` of the flagged may be ID, on average.

        The batch is judged as a whole, by `benjamini_hochberg`; `is_ood` judges each input by itself.
        """
        return benjamini_hochberg(self.p_value, fdr)

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict an input, ready for JSON; of a multi-label classifier also with `labels` and `label_names`."""
        columns = zip(
            self.label.tolist(),
            self.score.tolist(),
            self.threshold.tolist(),
            self.is_ood.tolist(),
            self.p_value.tolist(),
            strict=True,
        )
        rows = [
            {
                "label": label,
                "class_name": self.class_names[label] if self.class_names and label >= 0 else None,
                "score": value,
                "threshold": threshold,
                "is_ood": is_ood,
                "p_value": p,
            }
            for label, value, threshold, is_ood, p in columns
        ]
        if self.labels is not None:
            for row, applies in zip(rows, self.labels, strict=True):
                row["labels"] = applies.nonzero().flatten().tolist()
                row["label_names"] = [self.class_names[i] for i in row["labels"]] if self.class_names else None
        return rows
