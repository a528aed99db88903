"""Load a head without its model: a matrix and a bias, a linear layer, or one layer of a file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodline.data.tensor_formats import ALONE, Rows, load_torch, open_rows, rows_of
from oodline.errors import HeadError, OodlineError
from oodline.model.feature_files import FLOATS
from oodline.model.head import LinearHead, read_head

KNOWN = ("", "W", "fc", "head", "classifier", "linear", "head.fc")
"""What a head is called in most files, where more than one layer fits."""


def make_head(
    head: Any, num_features: int | None = None, num_classes: int | None = None, name: str | None = None
) -> nn.Module:
    """A module that turns features into logits.

    Parameters
    ----------
    head : nn.Module, LinearHead, pair of arrays, array, mapping of arrays, str or Path
        A linear layer or several; (W, b) with W (C, D) and b (C,); W alone; a state_dict or a file of one
        (.safetensors, .npz, .npy, .pt, .pth), in which the layer of D features is looked for.
    num_features, num_classes : int, optional
        D and C, where they are known.
    name : str, optional
        Name of the layer in a state_dict or a file, such as fc.

    Raises
    ------
    HeadError
        It is none of these, no layer fits, or several do.
    DataError
        The file cannot be read.

    Examples
    --------
    >>> make_head((torch.ones(3, 8), torch.zeros(3)))
    Linear(in_features=8, out_features=3, bias=True)
    """
    if isinstance(head, nn.Module):
        read_head(head, "head")
        return head
    if isinstance(head, LinearHead):
        return _linear(rows_of("W", head.weight), rows_of("b", head.bias), "the head", num_features)
    if isinstance(head, str | Path):
        return _chosen(_arrays(Path(head)), str(head), num_features, num_classes, name)
    if isinstance(head, Mapping):
        rows = {str(key): rows_of(str(key), value) for key, value in head.items()}
        return _chosen(rows, "the head", num_features, num_classes, name)
    if isinstance(head, tuple | list) and len(head) == 2:
        try:
            return _linear(rows_of("W", head[0]), rows_of("b", head[1]), "the head", num_features)
        except HeadError:
            raise
        except OodlineError as error:
            raise HeadError(f"`head` must be a pair (W, b) of arrays: {error}") from error
    if hasattr(head, "shape") and len(head.shape) == 2:
        return _linear(rows_of("W", head), None, "the head", num_features)
    raise HeadError(
        f"`head` must be (W, b), an nn.Linear, a state_dict or a file of one; got {type(head).__name__}. Leave it out "
        "for methods that need no head."
    )


def _arrays(path: Path) -> dict[str, Rows]:
    if path.suffix not in (".pt", ".pth") or not path.is_file() or not path.stat().st_size:
        rows, _ = open_rows(path)
        return {"weight": rows[ALONE]} if path.suffix == ".npy" else rows
    content = load_torch(path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Tensor):
        return {"weight": rows_of("weight", content)}
    if not isinstance(content, Mapping):
        raise HeadError(f"{path} holds a {type(content).__name__}, not a state_dict with the head's weight.")
    return {key: rows_of(key, value) for key, value in content.items() if isinstance(value, Tensor)}


def _chosen(
    rows: dict[str, Rows], where: str, num_features: int | None, num_classes: int | None, name: str | None
) -> nn.Module:
    layers = {prefix: pair for key in rows if (pair := _layer(key, rows)) for prefix in [_prefix(key)]}
    fit = {
        prefix: (weight, bias)
        for prefix, (weight, bias) in layers.items()
        if num_features in (None, weight.shape[1]) and num_classes in (None, weight.shape[0])
    }
    listed = ", ".join(f"'{prefix}' {layers[prefix][0].shape[:2]}" for prefix in layers) or "none at all"
    if name is not None:
        if name not in layers:
            raise HeadError(f"{where} has no layer '{name}' with a weight (C, D). Its layers are {listed}.")
        return _linear(*layers[name], where, num_features)
    wanted = f"({num_classes or 'C'}, {num_features or 'D'})"
    if not fit:
        raise HeadError(
            f"{where} has no layer with a weight of shape {wanted}, such as `fc.weight` and `fc.bias`, or `W` and `b`. "
            f"Its layers are {listed}."
        )
    usual = [prefix for prefix in fit if prefix.removeprefix("module.").removeprefix("model.") in KNOWN]
    if len(fit) > 1 and len(usual) != 1:
        raise HeadError(
            f"{where} has {len(fit)} layers that could be the head, with a weight of shape {wanted}: {', '.join(fit)}. "
            "Name it: head_name='NAME', or --head NAME."
        )
    return _linear(*fit[usual[0] if len(fit) > 1 else next(iter(fit))], where, num_features)


def _prefix(key: str) -> str:
    return "" if key == "weight" else key.removesuffix(".weight")


def _layer(key: str, rows: dict[str, Rows]) -> tuple[Rows, Rows | None] | None:
    if key != "W" and key != "weight" and not key.endswith(".weight"):
        return None
    weight = rows[key]
    pointwise = len(weight.shape) > 2 and set(weight.shape[2:]) == {1}
    if weight.kind not in FLOATS or not (len(weight.shape) == 2 or pointwise):
        return None
    bias = rows.get("b", rows.get("bias")) if key == "W" else rows.get(f"{key.removesuffix('weight')}bias")
    if key == "weight" and bias is None:
        bias = rows.get("b")
    return weight, bias


def _linear(weight: Rows, bias: Rows | None, where: str, num_features: int | None) -> nn.Linear:
    for letter, rows in (("W", weight), ("b", bias)):
        if rows is not None and rows.kind not in FLOATS:
            raise HeadError(f"`{letter}` of {where} must be floating-point numbers; got {rows.kind}.")
    if len(weight.shape) < 2 or min(weight.shape) < 1 or set(weight.shape[2:]) - {1}:
        raise HeadError(f"`W` of {where} must have shape (C, D), one row per class; got {weight.shape}.")
    classes, features = weight.shape[:2]
    if num_features not in (None, features):
        turned = " Pass W.T." if classes == num_features else ""
        raise HeadError(
            f"`W` of {where} must have shape (C, {num_features}), one column per feature; got {weight.shape}.{turned}"
        )
    if classes < 2:
        raise HeadError(
            f"`W` of {where} must have a row for each of at least 2 classes; got {weight.shape}. For one logit z pass "
            "two, 0 and z: a row of zeros before it."
        )
    if bias is not None and bias.shape != (classes,):
        raise HeadError(f"`b` of {where} must have shape ({classes},), one number per class; got {bias.shape}.")
    values = _values(weight).flatten(1)
    offset = values.new_zeros(classes) if bias is None else _values(bias).to(values.dtype)
    if not bool(torch.isfinite(values).all() and torch.isfinite(offset).all()):
        raise HeadError(f"the weights of {where} hold NaN or infinite values. Save them again.")
    layer = nn.Linear(features, classes, device="meta")  # no weights are drawn only to be replaced
    layer.weight, layer.bias = (nn.Parameter(part, requires_grad=False) for part in (values, offset))
    layer.eval()
    return layer


def _values(rows: Rows) -> Tensor:
    found = rows.read(0, rows.shape[0])
    # a copy, which the caller's later changes do not reach
    return found.to(torch.float64 if found.dtype == torch.float64 else torch.float32, copy=True)
