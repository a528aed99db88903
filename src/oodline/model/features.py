"""`FeatureClassifier`: precomputed features and logits in place of a model; only the head is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from oodline.data.batch import Inputs, as_tensors
from oodline.data.tensors import TensorLoader, TensorSource
from oodline.errors import DataError, HeadError, InputError
from oodline.model.activations import Activations, Needs, needs_network
from oodline.model.classifier import Classifier
from oodline.model.feature_files import NAMES, open_features
from oodline.model.gradients import Gradients
from oodline.model.head import Head, HeadInfo
from oodline.model.head_name import Task
from oodline.model.layers import Layer
from oodline.model.no_head import NoHead

TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""How far W f + b may be from the given logits, as a fraction of the largest, by their precision."""
USUAL = 1e-3
"""The same in single precision, which leaves room for the fast matrix products of a GPU."""

_ASKED = {
    Needs.FEATURES: ("features", "Pass features="),
    Needs.LOGITS: ("logits", "Pass logits=, or head=(W, b)"),
    Needs.HEAD: ("the head", "Pass head=(W, b), or --model features:HEAD_FILE"),
    Needs.LINEAR_HEAD: ("the head", "Pass head=(W, b), or --model features:HEAD_FILE"),
    Needs.FEATURE_MAP: ("the feature map before pooling", "Fit it on the model itself"),
    Needs.INPUTS: ("the inputs of the model", "Fit it on the model itself"),
    Needs.LAYERS: ("the outputs of layers of the model", "Fit it on the model itself"),
    Needs.OBSERVED: ("the token that came next", "Fit it on the language model itself"),
    Needs.CLASSIFIER: ("the model, to run it again or for gradients", "Fit it on the model itself"),
}


class FeatureClassifier(Classifier):
    """A classifier whose inputs are its features, its logits, or both.

    A batch is a mapping with `features` (N, D), `logits` (N, C) or both, or the one tensor that there is. Everything
    that takes a `Classifier` takes it; a method that reads more than it has is refused by name.

    Parameters
    ----------
    head : nn.Module or NoHead
        From features to logits.
    task : {"multiclass", "multilabel"}
        As `Classifier`; a `NoHead` says it itself.

    Examples
    --------
    >>> classifier = FeatureClassifier(nn.Linear(8, 3))
    >>> classifier(torch.ones(5, 8)).logits.shape
    torch.Size([5, 3])
    >>> FeatureClassifier(NoHead(num_classes=3, num_features=8, logits=False))
    FeatureClassifier(features=8, classes=3, no head)
    """

    def __init__(self, head: nn.Module | NoHead, *, task: Task = "multiclass") -> None:
        self._no_head = head if isinstance(head, NoHead) else None
        if isinstance(head, NoHead):
            self.model, self.feature_map_name, self.dtype = nn.Module().eval(), None, "float32"
            return
        super().__init__(head, "", task=task)

    @property
    def head(self) -> Head:
        """The head, or what stands in its place."""
        return self._no_head if self._no_head is not None else super().head

    @property
    def head_name(self) -> str:
        """The head is all there is, and has no name."""
        return ""

    @property
    def first_head_name(self) -> str:
        """The same."""
        return ""

    def expect(self, known: HeadInfo) -> None:
        """The head is the one that was given."""

    @property
    def device(self) -> torch.device:
        """Where the head lives; the CPU without one."""
        return self._no_head.device if self._no_head is not None else super().device

    def __repr__(self) -> str:
        head = self.head
        what = "no head" if self._no_head else f"head={type(self.model).__name__}"
        width = f"features={head.num_features}, " if self._features_given else ""
        return f"FeatureClassifier({width}classes={head.num_classes}, {what})"

    @property
    def _features_given(self) -> bool:
        return self._no_head is None or self._no_head.features

    def lacking(self, needs: Needs, layers: Sequence[Layer] = ()) -> str:
        """What is missing for a method that reads `needs` and `layers`, and what to do; empty where nothing is."""
        has = Needs.FEATURES if self._features_given else Needs(0)
        if self._no_head is None:
            has |= Needs.LOGITS | Needs.HEAD | Needs.LINEAR_HEAD  # of a head of several layers the detector speaks
        elif self._no_head.logits:
            has |= Needs.LOGITS
        lacks = needs & ~has
        if lacks & (Needs.HEAD | Needs.LINEAR_HEAD):
            lacks &= ~Needs.LOGITS  # the head brings them
        missing = [_ASKED[need] for need in lacks]
        if layers:
            missing.append((f"the output of {', '.join(map(str, layers))}", "Fit it on the model itself"))
        if not missing:
            return ""
        given = " and ".join(
            n for n, there in zip(NAMES, (Needs.FEATURES in has, self._logits_given), strict=True) if there
        )
        what = " and ".join(dict.fromkeys(thing for thing, _ in missing))
        remedy = missing[-1][1] if needs_network(needs, layers) else missing[0][1]
        return f"needs {what}, and only {given or 'a head'} {'are' if given else 'is'} given. {remedy}."

    @property
    def _logits_given(self) -> bool:
        return self._no_head is None or self._no_head.logits

    def __call__(
        self,
        inputs: Any,
        *,
        needs: Needs = Needs.LOGITS,
        layers: Sequence[Layer] = (),
        index: Tensor | None = None,
    ) -> Activations:
        """The record of a batch.

        Raises
        ------
        InputError
            Neither features nor logits, of another width, of another kind than floating-point, NaN or infinite; or
            more is asked for than they tell.
        HeadError
            The logits are not what the head gives for the features.
        """
        if why := self.lacking(needs & ~Needs.FROM_FEATURES, layers):
            raise InputError(f"this pass {why}")
        arrays = self._named(inputs)
        raw = {value.dtype for value in arrays.values()}
        given = {name: _at_least_float32(value.detach().to(self.device)) for name, value in arrays.items()}
        self._check(given)
        count = len(next(iter(given.values())))
        if index is None:
            index = torch.arange(count)
        elif index.shape != (count,):
            raise InputError(f"`index` must have one position per sample, ({count},); got {tuple(index.shape)}.")
        for name, value in given.items():
            bad = torch.nonzero(~torch.isfinite(value).all(1).cpu()).flatten()
            if len(bad):
                raise InputError(
                    f"NaN or infinite values in {len(bad)} of {count} rows of `{name}` (first: sample "
                    f"{int(index[bad[0]])} of the data set). Remove or recompute them."
                )
        made = self._record(given, index)
        if self._no_head is None and "logits" in given:
            with torch.no_grad():
                self._compare(given["logits"], made.head(made.features), raw)
        made.check_finite("this batch")
        return made.replace(
            inputs=inputs if Needs.INPUTS in needs else None, classifier=self if Needs.CLASSIFIER in needs else None
        )

    def trace(self, inputs: Any, *, needs: Needs = Needs.LOGITS, layers: Sequence[Layer] = ()) -> Activations:
        """The same for `torch.export`, without looking at values."""
        given = {name: _at_least_float32(value) for name, value in self._named(inputs).items()}
        return self._record(given, torch.arange(next(iter(given.values())).shape[0]))

    def gradients(self, inputs: Inputs, scalar: Callable[[Tensor], Tensor], *, layers: Sequence[str] = ()) -> Gradients:
        """There are none.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(f"this method {self.lacking(Needs.CLASSIFIER)}")

    def loader(
        self,
        features: Any = None,
        labels: Any = None,
        *,
        logits: Any = None,
        batch_size: int = 1024,
        limit: int | None = None,
        label_offset: int = 0,
    ) -> TensorLoader:
        """Batches of features and logits, such as another data set's.

        Parameters
        ----------
        features, labels, logits, batch_size
            As `from_features` takes them.
        limit : int, optional
            Read only the first samples, at most this many.
        label_offset : int
            Added to every label.

        Raises
        ------
        DataError
            They cannot be read, or have other widths than this classifier.
        """
        source = open_features(features, labels, logits=logits)
        self.check(source)
        return TensorLoader(source, batch_size, limit, label_offset)

    def check(self, source: TensorSource) -> None:
        """Raise `DataError` where arrays do not have what this classifier reads, or have other widths."""
        head = self.head
        if self._features_given and "features" not in source.inputs:
            raise DataError(f"{source.where} holds no `features`, which are needed with this classifier.")
        if self._no_head is not None and self._logits_given and "logits" not in source.inputs:
            raise DataError(f"{source.where} holds no `logits`, which the other data has. Pass them, or a head.")
        for name, width, letter in (("features", head.num_features, "D"), ("logits", head.num_classes, "C")):
            if (
                name in source.inputs
                and source.shape(name)[1] != width
                and (name != "features" or self._features_given)
            ):
                raise DataError(
                    f"`{name}` of {source.where} must have shape (N, {letter}) = (N, {width}), as this classifier "
                    f"has; got {source.shape(name)}."
                )

    def _named(self, inputs: Any) -> dict[str, Tensor]:
        inputs = as_tensors(inputs)
        if isinstance(inputs, Tensor):
            inputs = {"features" if self._features_given else "logits": inputs}
        if not isinstance(inputs, Mapping) or not inputs or not inputs.keys() <= set(NAMES):
            got = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise InputError(f"a batch must be a tensor, or a mapping of `features` and `logits`; got {got}.")
        return {name: value for name, value in inputs.items() if name != "features" or self._features_given}

    def _check(self, given: Mapping[str, Tensor]) -> None:
        head = self.head
        widths = {"features": head.num_features, "logits": head.num_classes}
        needed = [
            name
            for name, there in (("features", self._features_given), ("logits", self._no_head and self._logits_given))
            if there and name not in given
        ]
        if needed:
            raise InputError(f"a batch must have `{needed[0]}`; got {' and '.join(given) or 'nothing'}.")
        for name, value in given.items():
            if value.ndim != 2 or value.shape[1] != widths[name] or not len(value):
                raise InputError(f"`{name}` must have shape (N, {widths[name]}); got {tuple(value.shape)}.")
            if not value.is_floating_point():
                kind = str(value.dtype).removeprefix("torch.")
                raise InputError(f"`{name}` must be floating-point numbers; got {kind}. Convert them to float32.")
        if len({len(value) for value in given.values()}) > 1:
            raise InputError(f"`features` and `logits` must have one row per sample; got {', '.join(_sizes(given))}.")

    def _record(self, given: Mapping[str, Tensor], index: Tensor) -> Activations:
        features = given["features"] if self._features_given else given["logits"]
        head = self.head.to(features)
        with torch.no_grad():
            logits = given["logits"].to(features) if "logits" in given else head(features)
        return Activations(features=features, logits=logits, head=head, index=index)

    def _compare(self, given: Tensor, computed: Tensor, raw: set[torch.dtype]) -> None:
        largest = float(computed.abs().max().clamp(min=1e-12))
        gap = float((given.to(computed) - computed).abs().max())
        allowed = max((TOLERANCE.get(kind, USUAL) for kind in raw), default=USUAL) * largest
        if gap > allowed:
            raise HeadError(
                f"the logits are not what the head gives for the features: W f + b and `logits` differ by up to "
                f"{gap:.3g}, and {allowed:.3g} is allowed, where the largest logit is {largest:.3g}. Pass the head and "
                "the features of the model that gave the logits, before softmax and temperature; or leave one out."
            )


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _sizes(given: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} {tuple(value.shape)}" for name, value in given.items()]
