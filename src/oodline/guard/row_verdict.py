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
from oodline.model.rows.places import Places
from oodline.scoring.class_calibration import AnyCalibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from oodline.guard.overlay import Pictures

Column = Literal["score", "p_value", "is_ood", "label"]


@dataclass(frozen=True, eq=False)
class RowVerdict(Verdict):
    """What a guard says of G inputs and of their M rows.

    The fields of `Verdict` are of the inputs: `score` is that of its rows together (`PerInput`), `label` is -1, and an
    input without a row is not flagged. Those of `rows_of` are of the rows.

    Parameters
    ----------
    rows_of : Rows
        The rows.

    Examples
    --------
    See `RowClassifier`.
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
        whole = places.judged(score)
        nothing = torch.full((places.inputs,), -1)
        rows = Rows(places, label, score, calibration.is_ood(score), calibration.p_value(score))
        return cls(
            label=nothing,
            score=whole,
            is_ood=calibration.is_ood(whole),
            p_value=calibration.p_value(whole),
            threshold=calibration.threshold_of(nothing),
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
        """One plain dict an input, ready for JSON; `flagged_share` is that of its rows."""
        assert self.rows_of is not None
        flagged = self.lists("is_ood")
        return [
            {**row, "rows": len(own), "flagged_share": float(own.double().mean()) if len(own) else 0.0}
            for row, own in zip(super().rows(), flagged, strict=True)
        ]


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
