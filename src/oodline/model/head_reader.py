"""Read the head of one model, named or searched for, and check on every pass that `W f + b == logits`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from oodline.errors import HeadError, SettingError
from oodline.model.after_head import explain
from oodline.model.agreement import gap, precision
from oodline.model.eval_mode import evaluating
from oodline.model.head import LayeredHead, LinearHead, find_head, head_of, read_head
from oodline.model.head_name import HeadName, Task, task_of
from oodline.model.linear_modules import Affine, affine_of, candidates, linear_names
from oodline.model.reading import Reading, Split, at_least_float32, follow, overheard, split
from oodline.model.search import MOST, Layer, find, layers_of

Probe = Callable[[Mapping[str, str], Mapping[str, str]], tuple[Mapping[str, Any], Tensor]]
"""Runs a few samples and listens to inputs and outputs of the modules named; returns what was heard, and the logits."""


@dataclass(frozen=True, eq=False)
class Read:
    """Features (N, D), logits (N, C) and the head between them."""

    features: Tensor
    logits: Tensor
    head: LinearHead | LayeredHead


class HeadReader:
    """Turn what the head's modules read and returned in a pass into features, logits and head.

    Parameters
    ----------
    model : nn.Module
        A classifier.
    name : str, optional
        Its head. If omitted, `search` may find another one than the first guess.
    binary : bool
        One logit z stands for (0, z).
    guess : str, optional
        Where to begin the search, in place of the last linear layer.
    task : {"multiclass", "multilabel"}, optional
        What the logits are of. If omitted, what the name says.
    windows : bool
        Search among convolutions that read a window around each place, too.

    Raises
    ------
    HeadError
        There is no such head.
    SettingError
        A binary head of one logit cannot be multi-label.

    Examples
    --------
    >>> HeadReader(nn.Sequential(nn.Linear(4, 3), nn.ReLU())).name
    '0'
    """

    def __init__(
        self,
        model: nn.Module,
        name: str | None = None,
        *,
        binary: bool = False,
        task: Task | None = None,
        guess: str | None = None,
        windows: bool = False,
    ) -> None:
        self.model, self._windows = model, windows
        with evaluating(model):
            first = find_head(model, guess if name is None else name, windows=windows)
            parsed = HeadName.parse(first, dict(model.named_modules()))
            assert parsed is not None
            parsed = replace(
                parsed,
                binary=binary or parsed.binary,
                multilabel=parsed.multilabel if task is None else task == "multilabel",
            )
            if parsed.binary and parsed.multilabel:
                raise SettingError(
                    "`binary` is for one logit of two classes that exclude each other, and a multi-label classifier "
                    "has labels that do not. Leave out `binary`: one label is one logit."
                )
            self._reading = Reading(parsed)
            if not head_of(model, self._reading.name).num_classes:  # raises where its layers give no row of logits
                raise HeadError(f"the head '{self._reading.name}' has no outputs.")
        self._given, self._proven = name is not None, False
        self.after: nn.Module | None = None
        """What the model applies to the head's output before it returns it, where whoever runs it found that out."""
        self.first_name = self.name

    @property
    def is_proven(self) -> bool:
        """Whether a pass has shown that it makes the logits."""
        return self._proven

    @property
    def is_named(self) -> bool:
        """Whether its name was given."""
        return self._given

    @property
    def name(self) -> str:
        """What makes the logits: a module's name, or a sum of such."""
        return str(self._reading.name)

    @property
    def factors(self) -> tuple[float, ...]:
        """By what each module's output is multiplied in the sum that makes the logits."""
        return tuple(factor for factor, _ in self._reading.name.terms)

    @property
    def head(self) -> LinearHead | LayeredHead:
        """The head as it is now, sharing its tensors with the model where it is one layer."""
        with evaluating(self.model):  # reading a parametrised weight may change it in training mode
            return head_of(self.model, self._reading.name)

    @property
    def binary(self) -> bool:
        """Whether the model's one logit stands for two."""
        return self._reading.name.binary

    @property
    def task(self) -> Task:
        """What the logits are of."""
        return task_of(self.name)

    @property
    def device(self) -> torch.device:
        """Where its first module lives."""
        module = self.model.get_submodule(self._reading.name.names[0])
        return next(chain(module.parameters(), self.model.parameters())).device

    @property
    def keys(self) -> tuple[dict[str, str], dict[str, str]]:
        """Inputs and outputs to listen to."""
        return overheard(self._reading.name.names)

    def expect_name(self, name: str) -> None:
        """Take a head by its name, where none was named and no pass has shown it yet."""
        modules = dict(self.model.named_modules())
        parsed = HeadName.parse(name, modules)
        if self._given or self._proven or parsed is None or not all(part in modules for part in parsed.names):
            return
        own = self._reading.name
        if (parsed.binary, parsed.multilabel) == (own.binary, own.multilabel) and all(
            affine_of(modules[part]) for part in parsed.names
        ):
            self._reading = Reading(parsed)

    def agrees(self, features: Tensor, logits: Tensor) -> bool:
        """Whether the head, as far as it is known, makes these logits of these features."""
        head = self.head
        if isinstance(head, LayeredHead):
            return True
        if features.shape[1] != head.num_features or logits.shape[1] != head.num_classes:
            return False
        return gap(Affine(head.weight, head.bias), features, logits, precision(features, head.weight)) is None

    def read(self, seen: Mapping[str, Any], logits: Tensor) -> Read | None:
        """Read a pass; None where the head does not give its logits."""
        head = self.head
        if isinstance(head, LayeredHead):
            found = self._read_layered(head, seen, logits)
        elif logits.shape[1] == 1 and not (self.binary or self._reading.name.multilabel):
            found = None
        else:
            found = split(self._reading, self._affines(), seen, logits)
        if found is None:
            return None
        self._reading, self._proven = found.reading, True
        return self._served(found, head)

    def made(self, seen: Mapping[str, Any]) -> Tensor:
        """The logits (N, C) that the head's modules made in a pass, by what they returned."""
        terms = [factor * seen[f"output of {name}"] for factor, name in self._reading.name.terms]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def follow(self, seen: Mapping[str, Any], logits: Tensor, *, detach: bool = True) -> Read:
        """As `read`, in the way that the last pass was read and without a look at the values: for a graph.

        With `detach` false, gradients flow through the head that is returned to the weights of the model.
        """
        head = self.head if detach else head_of(self.model, self._reading.name, detach=False)
        if isinstance(head, LayeredHead):
            return Read(seen[f"features of {self._module}"].flatten(1), logits, head)
        return self._served(follow(self._reading, self._affines(detach=detach), seen, logits), head)

    def search(self, probe: Probe, classes: int, *, scaled: bool = False) -> None:
        """Find the head that gives what the model returns, where none was named; one times a number if `scaled`.

        Raises
        ------
        HeadError
            There is none, or another one was named; the message says what the model returns instead.
        """
        linear = linear_names(self.model, windows=self._windows)
        names = [name for name, affine in linear if affine.weight.shape[0] == classes][-MOST:]
        inputs, outputs = overheard(tuple(names))
        own = self.keys
        seen, logits = probe(inputs | own[0], outputs | own[1])
        layers = layers_of(self.model, names, seen, logits.shape[0])
        binary, multilabel = self._reading.name.binary, self._reading.name.multilabel
        found = find(layers, seen, logits, scaled) if binary == (classes == 1) or multilabel else None
        if found is not None and multilabel and found.shifted:
            found = None  # a constant, which a softmax ignores, changes a sigmoid
        if found is None or self._given:
            raise HeadError(" ".join(_capital(self._why_not(layers, seen, logits, found))))
        self._reading = replace(found, name=replace(found.name, binary=binary, multilabel=multilabel))

    def _read_layered(self, head: LayeredHead, seen: Mapping[str, Any], logits: Tensor) -> Split | None:
        features, output = seen.get(f"features of {self._module}"), seen.get(f"output of {self._module}")
        if not isinstance(features, Tensor) or not isinstance(output, Tensor):
            return None
        features = features.flatten(1)
        if features.shape != (logits.shape[0], head.num_features) or output.shape != logits.shape:
            return None
        if not torch.equal(output, logits) and bool(torch.isfinite(logits).all()):
            return None
        if not self._proven:  # once: what its layers compute does not depend on their weights
            values = at_least_float32(features)
            with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
                off = (head.to(values)(values) - logits).abs().nan_to_num(0).max()
            if bool(off > 1000 * precision(features, logits) * logits.abs().nan_to_num(0).max()):
                return None
        return Split(features, logits, self._reading)

    @property
    def _module(self) -> str:
        return self._reading.name.names[0]

    def _served(self, split: Split, head: LinearHead | LayeredHead) -> Read:
        binary = split.reading.name.binary
        logits = nn.functional.pad(split.logits, (1, 0)) if binary else split.logits  # (0, z)
        return Read(split.features, logits, head)

    def _affines(self, *, detach: bool = True) -> list[Affine]:
        with evaluating(self.model):
            found = [self._affine(name, detach) for name in self._reading.name.names]
            return [affine for affine in found if affine is not None]

    def _affine(self, name: str, detach: bool) -> Affine | None:
        module = self.model.get_submodule(name)
        if (affine := affine_of(module, detach=detach)) is not None or not isinstance(module, nn.Sequential):
            return affine
        head = read_head(module, name, detach=detach)  # one linear layer, and perhaps dropout before it
        return Affine(head.weight, head.bias) if isinstance(head, LinearHead) else None

    def _why_not(
        self, layers: Sequence[Layer], seen: Mapping[str, Any], logits: Tensor, reading: Reading | None
    ) -> Iterator[str]:
        model, name, classes = type(self.model).__name__, self._reading.name, logits.shape[1]
        reason = explain(layers, logits)
        if name.binary and classes > 1:
            yield f"binary=True is for a model of one logit, and {model} returns {classes} logits: leave it out."
            return
        if classes == 1 and not name.binary and not name.multilabel:
            yield (
                f"{model} returns one number per sample. If it is the logit of the second of two classes, pass "
                "Classifier(model, binary=True), or --binary: the logits are then (0, z)."
            )
        else:
            yield from self._fact(layers, seen, logits)
        if reading is not None:
            yield f"They are the output of '{reading.name}': pass that as head, or none."
        elif reason:
            yield reason
        elif classes > 1:
            yield candidates(self.model, classes, but={*name.names, *(layer.name for layer in layers)})

    def _fact(self, layers: Sequence[Layer], seen: Mapping[str, Any], logits: Tensor) -> Iterator[str]:
        nonlinear = {layer.name for layer in layers if layer.gap is not None}
        for name in self._reading.name.names:
            features, output = seen.get(f"features of {name}"), seen.get(f"output of {name}")
            if name in nonlinear:
                continue
            if f"features of {name}" not in seen:
                yield f"the head '{name}' was not called in the forward pass."
            elif isinstance(features, Tensor) and isinstance(output, Tensor) and _only_laid_out(output, logits):
                yield (
                    f"the head '{name}' reads an input of shape {tuple(features.shape)}; one row of "
                    f"{features.shape[-1]} features per sample is needed."
                )
            else:
                shape = f", shape {tuple(output.shape)}," if isinstance(output, Tensor) else ""
                yield (
                    f"the output of '{name}'{shape} is not the logits that the model returns, shape "
                    f"{tuple(logits.shape)}."
                )


def _capital(sentences: Iterator[str]) -> Iterator[str]:
    # an error begins in small letters, the sentences after its first do not
    yield next(sentences, "")
    yield from (sentence[0].upper() + sentence[1:] for sentence in sentences)


def _only_laid_out(output: Tensor, logits: Tensor) -> bool:
    return output.shape != logits.shape and torch.equal(output.flatten(), logits.flatten())
