"""The classifier of a model with several decisions per input, by the kind of its rows."""

from __future__ import annotations

from typing import Any

from torch import nn

from oodline.errors import SettingError
from oodline.model.precision import Dtype
from oodline.model.rows.box_classifier import BoxClassifier
from oodline.model.rows.boxes import Boxes
from oodline.model.rows.named import rows_of
from oodline.model.rows.placed import PlacedRows
from oodline.model.rows.row_classifier import RowClassifier


def open_rows(
    model: nn.Module, rows: PlacedRows | str, head: str | None = None, *, binary: bool = False, dtype: Dtype = "float32"
) -> RowClassifier:
    """A `BoxClassifier` for boxes, else a `RowClassifier`.

    An object detector that is none of torchvision's may carry its adapter as attributes: `box_adapter` and `box_head`,
    as `BoxClassifier` takes them.

    Parameters
    ----------
    model : nn.Module
        The model.
    rows : PlacedRows or str
        Its rows, or a reference such as "boxes".
    head, binary, dtype
        As `RowClassifier`; not for boxes.

    Raises
    ------
    HeadError, InputError
        As `RowClassifier` and `BoxClassifier`.
    SettingError
        What boxes do not take is given.

    Examples
    --------
    >>> open_rows(nn.Conv2d(3, 4, 1), "pixels")
    RowClassifier(Conv2d, head='', classes=4, features=3, rows=Pixels(region=0.01, fit_share=0.05, ignore=255))
    """
    kind = rows_of(rows) if isinstance(rows, str) else rows
    if not isinstance(kind, Boxes):
        return RowClassifier(model, kind, head, binary=binary, dtype=dtype)
    stated: dict[str, Any] = {name: getattr(model, f"box_{name}", None) for name in ("adapter", "head")}
    found = BoxClassifier(model, stated["adapter"], kind, head=stated["head"])
    named = head is not None and head != found.head_name  # a guard file has the name that the adapter gave
    for name, given in (("head", named), ("binary", binary), ("dtype", dtype != "float32")):
        if given:
            raise SettingError(f"`{name}` is not for boxes, which an adapter reads. Leave it out.")
    return found
