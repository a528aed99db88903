"""`RowVerdict`: what a guard says of inputs with many rows, and of each of their pixels, tokens or boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline.errors import InputError, SettingError
from oodline.guard.verdict import Verdict
from oodline.model.rows.per_input import Drawn
from oodline.model.rows.places import Places
from oodline.scoring.class_calibration import AnyCalibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from oodline.guard.overlay import Pictures

Column = Literal["score", "p_value", "is_ood", "label"]


@dataclass(frozen=True, eq=False)
class RowVerdict(Verdict):
    """What a guard says of G inputs and of their M rows.

    The fields of `Verdict` are of the inputs: `score` is that of its rows together (`PerInput`), and `label` is -1.
    Where the promise is per box, an image has no score beside its boxes': `score` is then its p-value, and `threshold`
    the false-alarm rate. An input without a row, such as an image without a box, is not judged: its score is infinite
    (1 as a p-value), and it is not flagged. The fields of `rows_of` are of the rows.

    Parameters
    ----------
    rows_of : Rows
        The rows.

    Examples
    --------
    >>> from oodline.model.rows.per_input import Lowest
    >>> from oodline.scoring.calibration import calibrate
    >>> group, place, samples = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), torch.arange(2)
    >>> places = Places(group, place, samples, (1, 2), Lowest(), torch.ones(2, 3))
    >>> scores = torch.tensor([7.0, 8.0, 6.0, 1.0])
    >>> verdict = RowVerdict.of_rows(scores, torch.tensor([0, 1, 1, 0]), places, calibrate(torch.arange(99.0), 0.05))
    >>> verdict.score.tolist(), verdict.is_ood.tolist(), verdict.maps("is_ood").tolist()
    ([7.0, 1.0], [False, True], [[[False, False]], [[False, True]]])
    """

    rows_of: Rows | None = None

    @classmethod
    def of_rows(
        cls,
        score: Float[Tensor, " m"],
        label: Int[Tensor, " m"],
        places: Places,
        calibration: AnyCalibration,
        class_names: tuple[str, ...] | None = None,
    ) -> Self:
        """The verdict on scores of rows; raises `InputError` where one is NaN or infinite."""
        if not bool(torch.isfinite(score).all()):
            raise InputError(f"{int((~torch.isfinite(score)).sum())} of {len(score)} scores are NaN or infinite.")
        nothing = torch.full((places.inputs,), -1)
        label = places.known.get("label", label).cpu()  # a box has the class that the model gives it
        rows = Rows(places, label, score, calibration.is_ood(score), calibration.p_value(score))
        if isinstance(places.per_input, Drawn):  # what is promised is of rows; an input is judged by all of them
            whole = p_value = simes(rows.p_value, places.group, places.inputs)
            threshold = torch.full_like(whole, calibration.false_alarm)
            is_ood = whole <= threshold
        else:
            whole = places.judged(score.double())  # as when it was calibrated, to the last bit
            p_value, is_ood = calibration.p_value(whole), calibration.is_ood(whole)
            threshold = calibration.threshold_of(nothing)
        return cls(
            label=nothing,
            score=whole,
            is_ood=is_ood,
            p_value=p_value,
            threshold=threshold,
            class_names=class_names,
            rows_of=rows,
        )

    @checked
    def maps(self, column: Column = "is_ood", size: tuple[int, int] | None = None) -> Tensor:
        """One column of the rows, laid out over the places of each input (G, H, W), or (G, T) for tokens.

        Parameters
        ----------
        column : {"score", "p_value", "is_ood", "label"}
            `is_ood` and `p_value` of a row compare it with held-out inputs: at most a fraction `false_alarm` of ID
            inputs has enough rows with `is_ood` to be flagged (see `Lowest`). Places without a row are NaN, False
            or -1.
        size : tuple of two int, optional
            Bring maps to this height and width, such as the image's: each pixel has the value of the nearest row.

        Raises
        ------
        SettingError
            The inputs have lists of rows, and no map.
        """
        assert self.rows_of is not None
        places = self.rows_of.places
        if not places.grid:
            raise SettingError("these inputs have lists of rows and no map; `lists` gives one list per input.")
        found = places.maps(getattr(self.rows_of, column))
        if size is None:
            return found
        if found.ndim != 3:
            raise SettingError(f"`size` is for maps (G, H, W); these are of shape {tuple(found.shape)}. Leave it out.")
        resized = nn.functional.interpolate(found.unsqueeze(1).double(), size, mode="nearest-exact")
        return resized.squeeze(1).to(found.dtype)

    def lists(self, column: Column = "is_ood") -> Sequence[Tensor]:
        """One column of the rows, one tensor per input, in the order of the places."""
        assert self.rows_of is not None
        return self.rows_of.places.lists(getattr(self.rows_of, column))

    def plot(self, images: Pictures, *, most: int = 6) -> Figure:
        """Draw images beside their maps of classes and scores, with the flagged pixels outlined; see `draw_overlay`.

        Parameters
        ----------
        images : Tensor (N, channels, H, W) or sequence of PIL images
            What was judged, before its normalisation: uint8 or in [0, 1].
        most : int
            Images to draw.

        Raises
        ------
        MissingExtraError, InputError, SettingError
            As `draw_overlay`.
        """
        from oodline.guard.overlay import draw_overlay

        return draw_overlay(self, images, most=most)

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict an input, ready for JSON; `flagged_share` is that of its rows.

        Where `rows` is 0 there was nothing to judge: `score` is None.
        """
        assert self.rows_of is not None
        flagged = self.lists("is_ood")
        found = [
            {
                **row,
                "score": row["score"] if len(own) else None,
                "rows": len(own),
                "flagged_share": float(own.double().mean()) if len(own) else 0.0,
            }
            for row, own in zip(super().rows(), flagged, strict=True)
        ]
        if "box" not in self.rows_of.places.known:
            return found
        return [{**row, "boxes": boxes} for row, boxes in zip(found, self.boxes(), strict=True)]

    def boxes(self) -> list[list[dict[str, Any]]]:
        """The boxes of each image, as plain dicts: `class_name` is "unknown" where a box is flagged.

        `label` is the class that the model gives it, in any case; `box` and `sure` are the model's own.

        Raises
        ------
        SettingError
            The rows are not boxes.
        """
        assert self.rows_of is not None
        places, rows = self.rows_of.places, self.rows_of
        if "box" not in places.known:
            raise SettingError("the rows of this verdict are not boxes; `maps` lays them out.")
        names = self.class_names
        columns = zip(
            places.known["box"].tolist(),
            places.known["sure"].tolist(),
            rows.label.tolist(),
            rows.score.tolist(),
            rows.p_value.tolist(),
            rows.is_ood.tolist(),
            strict=True,
        )
        flat = [
            {
                "box": box,
                "sure": sure,
                "label": label,
                "class_name": "unknown" if flagged else names[label] if names and label < len(names) else None,
                "score": score,
                "p_value": p_value,
                "is_ood": flagged,
            }
            for box, sure, label, score, p_value, flagged in columns
        ]
        ends = torch.bincount(places.group, minlength=places.inputs).cumsum(0).tolist()
        return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def simes(p_values: Float[Tensor, " m"], group: Int[Tensor, " m"], inputs: int) -> Float[Tensor, " g"]:
    """The p-value of each input (G,) from those of its rows: the lowest rate at which Benjamini-Hochberg flags one.

    1 for an input without a row.

    Examples
    --------
    >>> simes(torch.tensor([0.02, 0.5, 0.03, 0.2], dtype=torch.float64), torch.tensor([0, 0, 0, 1]), 3)
    tensor([0.0450, 0.2000, 1.0000], dtype=torch.float64)
    """
    order = p_values.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]  # by input, then by p-value
    rows = torch.bincount(group, minlength=inputs)
    first = rows.cumsum(0) - rows
    rank = torch.arange(len(group)) - first[group[order]] + 1
    adjusted = p_values[order] * rows[group[order]] / rank
    return torch.ones(inputs, dtype=torch.float64).scatter_reduce(0, group[order], adjusted.double(), "amin")


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a verdict.

    Parameters
    ----------
    places : Places
        Where each row is.
    label : Tensor (M,), int64
        Its class.
    score : Tensor (M,)
        Higher = more in-distribution.
    is_ood : Tensor (M,), bool
        Whether the score is below the threshold that the inputs are compared with.
    p_value : Tensor (M,), float64
        How usual the score is among those of held-out inputs: at most a share p of ID inputs would be flagged at it.
    """

    places: Places
    label: Int[Tensor, " m"]
    score: Float[Tensor, " m"]
    is_ood: Bool[Tensor, " m"]
    p_value: Float[Tensor, " m"]
