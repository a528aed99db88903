"""Explain why no layer's `W f + b` equals the logits: find the function that follows the layer, by its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from oodline.model.agreement import precision
from oodline.model.search import Layer, weights

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": torch.relu,
    "ReLU6": nn.functional.relu6,
    "hard swish": nn.functional.hardswish,
    "GELU": nn.functional.gelu,
    "SiLU": nn.functional.silu,
    "ELU": nn.functional.elu,
    "leaky ReLU": lambda x: nn.functional.leaky_relu(x, 0.01),
    "softplus": nn.functional.softplus,
    "sigmoid": torch.sigmoid,
    "hard sigmoid": nn.functional.hardsigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "L2 normalisation": lambda x: nn.functional.normalize(x, dim=-1),
}
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(1),
    "largest": lambda x: x.amax(1),
    "sum": lambda x: x.sum(1),
}


def _log_sum_exp(x: Tensor) -> Tensor:
    return x.logsumexp(1)


def explain(layers: Sequence[Layer], logits: Tensor) -> str:
    """One or two sentences: what the model returns instead of logits and what to do; empty where nothing fits.

    Parameters
    ----------
    layers : sequence of Layer
        Those with as many outputs as there are logits, the last one first.
    logits : Tensor (N, C)
        What the model returned.
    """
    rows = torch.isfinite(logits).all(1)
    for layer in layers:
        rows = rows & torch.isfinite(layer.output).flatten(1).all(1)
    if not bool(rows.any()):
        return ""
    y = logits.detach()[rows].double()
    outputs = [layer.output.detach()[rows].double() for layer in layers]
    close = max(1e-4, 8 * precision(logits, *(layer.output for layer in layers)))
    for found in (_not_linear, _probabilities, _scaled, _by_class, _capped, _pooled, _sum_with_largest):
        if sentence := found(layers, outputs, y, close):
            return sentence
    return ""


def _same(a: Tensor, b: Tensor, close: float) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= close * b.abs().max().clamp(min=1e-12))


def _plain(layers: Sequence[Layer], outputs: Sequence[Tensor]) -> Iterator[tuple[Layer, Tensor]]:
    for layer, output in zip(layers, outputs, strict=True):
        if output.shape[1] == 1:
            yield layer, output[:, 0]


def _not_linear(layers: Sequence[Layer], outputs: Sequence[Tensor], y: Tensor, close: float) -> str:
    for layer, output in _plain(layers, outputs):
        if layer.gap is not None and _same(output, y, close):
            return (
                f"'{layer.name}' is a {layer.kind}, and what it returns is not W f + b of its weight and bias: they "
                f"differ by up to {float(layer.gap):.3g}. If it is an adapter, merge it into its layer; if it "
                "normalises features or weights, do that before a plain nn.Linear."
            )
    return ""


def _probabilities(layers: Sequence[Layer], outputs: Sequence[Tensor], y: Tensor, close: float) -> str:
    one = torch.ones_like(y[:, 0])
    inside = bool(((y >= 0) & (y <= 1)).all())
    columns = [output.mean(1) for output in outputs]
    inverses: list[tuple[str, Tensor, bool]] = []
    if y.shape[1] > 1 and inside and _same(y.sum(1), one, 10 * close):
        inverses.append(("softmax", y.log(), True))
    if inside:
        inverses.append(("sigmoid", y.logit(), False))
    if bool((y <= 0).all()):
        inverses += [("log_softmax", y, True)] if _same(y.exp().sum(1), one, 10 * close) else []
        inverses.append(("logsigmoid", y - torch.log1p(-y.exp()), False))
    if bool((y.abs() <= 1).all()):
        inverses.append(("tanh", y.atanh(), False))
    for what, before, shifted in inverses:
        # near its ends a probability says little of the logit
        whole = torch.isfinite(before).all(1) & (before.abs() < 12).all(1)
        if not bool(whole.any()):
            continue
        for names, parts in [((layer.name,), [c]) for layer, c in zip(layers, columns, strict=True)] + [
            (tuple(layer.name for layer in layers), columns)
        ]:
            factors = weights([part[whole] for part in parts], before[whole], shifted)
            if factors is not None and all(f > 0 for f in factors):
                return _instead(what, names, factors)
    if inverses and inverses[0][0] in ("softmax", "log_softmax"):
        return (
            f"the model returns {inverses[0][0]}: its outputs are probabilities that add up to one. Return what goes "
            f"into {inverses[0][0]}, the logits."
        )
    return ""


def _instead(what: str, names: Sequence[str], factors: Sequence[float]) -> str:
    made = " + ".join(n if f == 1 else f"{f:.4g}*{n}" for f, n in zip(factors, names, strict=True))
    if len(names) > 1:
        return f"the model returns {what} of {made}. Let it return that sum, the logits."
    heat = "" if factors[0] == 1 else f" at a temperature of {1 / factors[0]:.4g}"
    return f"the model returns {what} of the output of '{names[0]}'{heat}. Let it return that output, the logits."


def _scaled(layers: Sequence[Layer], outputs: Sequence[Tensor], y: Tensor, close: float) -> str:
    for layer, output in _plain(layers, outputs):
        if (factors := weights([output], y)) and factors != [1]:
            return (
                f"the model returns the output of '{layer.name}' times {factors[0]:.6g} (a temperature of "
                f"{1 / factors[0]:.4g}). Let it return that output as it is; or take the scaled one as the logits: "
                f"Classifier(model, head='{factors[0]:.9g}*{layer.name}'), or --head '{factors[0]:.9g}*{layer.name}'."
            )
    return ""


def _by_class(layers: Sequence[Layer], outputs: Sequence[Tensor], y: Tensor, close: float) -> str:
    # y_c = s_c o_c + t_c for each class: two unknowns, and so three samples at least
    for layer, output in _plain(layers, outputs):
        if _same(output, y, close):
            continue
        shift = (y - output).mean(0)
        if len(y) > 1 and y.shape[1] > 1 and _same(output + shift, y, close):
            what = "plus a constant of each class, as logit adjustment adds"
        elif len(y) > 2:
            x, z = output - output.mean(0), y - y.mean(0)
            slope = (x * z).sum(0) / x.square().sum(0).clamp(min=1e-12)
            if not _same(x * slope, z, close):
                continue
            what = "scaled and shifted by class, as a BatchNorm1d after it does"
        else:
            continue
        return (
            f"the model returns the output of '{layer.name}' {what}. Fold that into its weight and bias "
            "(torch.nn.utils.fusion.fuse_linear_bn_eval does for a batch norm), or let the model return the output."
        )
    return ""


def _capped(layers: Sequence[Layer], outputs: Sequence[Tensor], y: Tensor, close: float) -> str:
    for layer, output in _plain(layers, outputs):
        if not bool((y.abs() <= output.abs() * (1 + close)).all()) or _same(output, y, close):
            continue  # what is not capped equals its own cap at infinity
        low, high = y.abs().max(), 1e4 * output.abs().max()
        at = output.abs().argmax()
        for _ in range(100):  # the cap a for which a tanh(o / a) gives the largest output
            middle = (low + high) / 2
            short = middle * torch.tanh(output.flatten()[at].abs() / middle) < y.flatten()[at].abs()
            low, high = (middle, high) if bool(short) else (low, middle)
        if _same(high * torch.tanh(output / high), y, close):
            return (
                f"the model returns {float(high):.4g} tanh(o / {float(high):.4g}) of the output o of '{layer.name}', "
                "a soft cap. Let it return that output, the logits."
            )
    return ""


def _pooled(layers: Sequence[Layer], outputs: Sequence[Tensor], y: Tensor, close: float) -> str:
    for layer, output in zip(layers, outputs, strict=True):
        for name, function in FUNCTIONS.items():
            made = function(output)
            if output.shape[1] == 1:
                if _same(made[:, 0], y, close):
                    return (
                        f"the model returns {name} of the output of '{layer.name}'. Let it return that output, the "
                        "logits."
                    )
                continue
            for how, pool in POOLS.items():
                if _same(pool(made), y, close):
                    return (
                        f"the model applies {name} to the output of '{layer.name}' at each of {output.shape[1]} places "
                        f"and returns the {how} of them: no W f + b of one row of features gives that. Leave {name} "
                        "out, or pool before the layer; the weights then need training again."
                    )
        for how, pool in (*POOLS.items(), ("log-sum-exp", _log_sum_exp)):
            if output.shape[1] > 1 and _same(pool(output), y, close):
                return (
                    f"the model returns the {how} of the outputs of '{layer.name}' at {output.shape[1]} places, class "
                    "by class. Let it take their mean, or the output at one place: that is W f + b of features f."
                )
    return ""


def _sum_with_largest(layers: Sequence[Layer], outputs: Sequence[Tensor], y: Tensor, close: float) -> str:
    columns, said = [], []
    for layer, output in zip(layers, outputs, strict=True):
        columns.append(output.mean(1))
        said.append(f"'{layer.name}'")
        if output.shape[1] > 1:
            columns.append(output.amax(1))
            said.append(f"the largest of '{layer.name}' over {output.shape[1]} places")
    factors = weights(columns, y)
    parts = [f"{f:.4g} times {what}" for f, what in zip(factors or [], said, strict=False) if f]
    if len(parts) < 2:
        return ""
    linear = all("largest" not in part for part in parts)
    why = "" if linear else ": the largest is not linear in any features"
    return f"the model returns {' plus '.join(parts)}{why}. Let it return one of them alone, if it is trained for that."
