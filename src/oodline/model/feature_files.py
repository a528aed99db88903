"""Open precomputed features, logits and labels: arrays, tensors, or files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oodline._util.spec import parse_reference
from oodline.data.tensor_formats import ALONE, open_rows
from oodline.data.tensors import LABELS, TensorFile, TensorSource
from oodline.errors import DataError

NAMES = ("features", "logits")
"""What a classifier of features takes."""

FLOATS = ("float16", "bfloat16", "float32", "float64", "F16", "BF16", "F32", "F64")
"""Kinds of the numbers of features, logits and heads, and what safetensors calls them."""


def open_features(features: Any = None, labels: Any = None, *, logits: Any = None) -> TensorSource:
    """Features, logits and labels from arrays or files, checked for kind and shape but not read.

    A text may name further files: `train.npy,labels=labels.npy,logits=logits.npy`.

    Raises
    ------
    DataError
        As `from_features`.
    """
    if isinstance(features, str | Path):
        reference = parse_reference(str(features))
        more = {name: str(value) for name, value in reference.options.items()}
        if strange := more.keys() - {LABELS, "logits"}:
            raise DataError(
                f"{features} has an unknown option, {min(strange)}; the options are labels=FILE and logits=FILE."
            )
        labels = more.get(LABELS) if labels is None else labels
        logits = more.get("logits") if logits is None else logits
        if labels is None and logits is None:
            return _checked(TensorFile(reference.name, only=NAMES))
        whole = TensorFile(reference.name, only=NAMES)
        arrays: dict[str, Any] = dict(whole.arrays)
        where = reference.name
    else:
        arrays, where = {} if features is None else {"features": features}, "the arrays"
        if features is None and logits is None:
            raise DataError("there is nothing to read: pass features, logits or both.")
    for name, value in ((LABELS, labels), ("logits", logits)):
        if value is not None:
            arrays[name] = _alone(name, Path(value)) if isinstance(value, str | Path) else value
    return _checked(TensorSource(arrays, where, only=NAMES))


def _alone(name: str, path: Path) -> Any:
    rows, _ = open_rows(path)
    if name not in rows and rows.keys() != {ALONE}:
        raise DataError(f"{path} must hold `{name}`; it holds {', '.join(rows) or 'nothing'}.")
    return rows.get(name) or rows[ALONE]


def _checked(source: TensorSource) -> TensorSource:
    for name in source.inputs:
        rows = source.arrays[name]
        if rows.kind not in FLOATS:
            raise DataError(
                f"`{name}` of {source.where} must be floating-point numbers; got {rows.kind}. Convert them to float32."
            )
        if len(rows.shape) != 2 or not rows.shape[1]:
            letter = "D" if name == "features" else "C"
            hint = " Flatten them to one row per sample." if len(rows.shape) > 2 else ""
            raise DataError(f"`{name}` of {source.where} must have shape (N, {letter}); got {rows.shape}.{hint}")
    return source
