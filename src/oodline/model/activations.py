"""`Activations`: what a classifier computed for a batch, the one record that statistics and detectors read."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from oodline.errors import InputError
from oodline.model.head import Head
from oodline.model.layers import Layer
from oodline.model.rows.places import OBSERVED, Places

NOT_OBSERVED = (
    "reads the token that came next, which only a language model predicts. Take RowClassifier(model, Tokens()) of one, "
    "or a detector that reads logits, such as 'msp' or 'entropy'."
)
"""Why a classifier cannot serve `Needs.OBSERVED`, and what to do."""


class Needs(enum.Flag):
    """What a detector or a statistic reads of `Activations`; a pass computes the union and no more.

    Features and logits come at no cost and are always there; naming them documents what the score depends on.

    Examples
    --------
    >>> Needs.LOGITS in (Needs.FEATURES | Needs.LOGITS)
    True
    """

    LOGITS = enum.auto()
    """The output of the classifier."""
    FEATURES = enum.auto()
    """The input of its head."""
    HEAD = enum.auto()
    """The head, as a function from features to logits."""
    LINEAR_HEAD = enum.auto()
    """The head as one matrix and one bias; a head of several layers is refused."""
    FEATURE_MAP = enum.auto()
    """The map (N, K, H, W) before pooling."""
    INPUTS = enum.auto()
    """The batch itself."""
    CLASSIFIER = enum.auto()
    """The classifier, to run it again or to differentiate it: such a detector costs more than the one pass."""
    LAYERS = enum.auto()
    """Outputs of several modules, which it names or takes from the network: see `Detector.layers`."""
    OBSERVED = enum.auto()
    """The token that came next, of a language model (`RowClassifier` with `Tokens`)."""

    FROM_FEATURES = LOGITS | FEATURES | HEAD | LINEAR_HEAD
    """All that features, logits and head give, so that kept activations serve it without the network."""


def needs_network(needs: Needs, layers: Collection[Layer] = ()) -> bool:
    """Whether more is read than features, logits and head give, so that the network itself must run.

    Examples
    --------
    >>> needs_network(Needs.FEATURES | Needs.HEAD), needs_network(Needs.FEATURE_MAP), needs_network(Needs.LOGITS, ["1"])
    (False, True, True)
    """
    return bool(layers) or bool(needs & ~Needs.FROM_FEATURES)


class SecondPass(Protocol):
    """What `Activations.classifier` can do; see `Classifier`."""

    def __call__(
        self, inputs: Any, *, needs: Needs = ..., layers: Sequence[Layer] = ..., index: Tensor | None = ...
    ) -> Activations:
        """Run the model over a batch."""
        ...

    def gradients(self, inputs: Any, scalar: Callable[[Tensor], Tensor], *, layers: Sequence[str] = ...) -> Any:
        """Differentiate one number per sample."""
        ...


@dataclass(frozen=True, eq=False)
class Activations:
    """Penultimate features and logits of one batch, with the head that maps the first to the second.

    Parameters
    ----------
    features : Tensor (N, D)
        Input of the head; float32, or float64 for a classifier that computes in it.
    logits : Tensor (N, C)
        Output of the classifier, same dtype.
    head : LinearHead or LayeredHead
        `head(features)` equals `logits` up to the classifier's own rounding.
    index : Tensor (N,), int64
        Position of each sample in its data set, on the CPU.
    feature_map : Tensor (N, K, H, W), optional
        Only when some detector declares `Needs.FEATURE_MAP`.
    layers : mapping of str or LayerReading to Tensor
        Outputs of the modules that some detector named, and what was read of them.
    inputs : Tensor or mapping, optional
        Only when some detector declares `Needs.INPUTS`.
    classifier : Classifier, optional
        Only when some detector declares `Needs.CLASSIFIER`.
    places : Places, optional
        Of a classifier with several rows per input, such as one per pixel: which input each row came from, and where
        in it. A sample is then a row, and `index` one number for input and place.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> activations = classifier(loader[0][0])
    >>> activations.features.shape, torch.allclose(activations.head(activations.features), activations.logits)
    (torch.Size([60, 16]), True)
    """

    features: Float[Tensor, "n d"]
    logits: Float[Tensor, "n c"]
    head: Head
    index: Int[Tensor, " n"]
    feature_map: Tensor | None = None
    layers: Mapping[Layer, Tensor] = field(default_factory=dict)
    inputs: Tensor | Mapping[str, Tensor] | None = None
    classifier: SecondPass | None = None
    places: Places | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def predicted(self) -> Int[Tensor, " n"]:
        """Class with the largest logit (N,); -1, no class, where there are no logits."""
        return predicted(self.logits)

    @property
    def samples(self) -> Int[Tensor, " g"]:
        """Position of each input in its data set (G,); `index` itself where an input is one row."""
        return self.index if self.places is None else self.places.samples

    @property
    def group(self) -> Int[Tensor, " n"]:
        """Which input of the batch each row came from (N,)."""
        return torch.arange(len(self)) if self.places is None else self.places.group

    @property
    def place(self) -> Int[Tensor, " n"]:
        """Which place of its input each row is (N,): pixel, token or box; 0 where an input is one row."""
        return torch.zeros(len(self), dtype=torch.int64) if self.places is None else self.places.place

    def take(self, rows: Tensor | slice) -> Activations:
        """Some of the rows: by positions (M,), by a mask (N,), or by a slice; ascending where an input has several.

        Where an input is one row, its feature map, layers and input come along.

        Examples
        --------
        >>> from oodline.testing import activations_of
        >>> activations_of(torch.arange(6.0).reshape(3, 2)).take(torch.tensor([2, 0])).features
        tensor([[4., 5.],
                [0., 1.]])
        """
        here = rows if isinstance(rows, slice) else rows.to(self.features.device)
        some = self.replace(
            features=self.features[here],
            logits=self.logits[here],
            index=self.index[rows if isinstance(rows, slice) else rows.cpu()],
            places=None if self.places is None else self.places.take(rows),
        )
        if self.places is not None:
            return some
        return some.replace(
            feature_map=None if self.feature_map is None else self.feature_map[here],
            layers={name: value[here] for name, value in self.layers.items()},
            inputs=self.inputs[here] if isinstance(self.inputs, Tensor) else None,
        )

    def judged(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " g"]:
        """One score per input (G,) from those of its rows (N,); themselves where an input is one row."""
        return scores if self.places is None else self.places.judged(scores)

    def parts(self, most: int) -> Iterator[Activations]:
        """The rows of many places, at most `most` at a time, so that a detector's memory is bounded."""
        if self.places is None or len(self) <= most:
            yield self
            return
        for start in range(0, len(self), most):
            yield self.take(slice(start, start + most))

    @property
    def labels(self) -> Bool[Tensor, "n c"] | None:
        """Which labels of a multi-label classifier apply (N, C): logit above `LABEL_THRESHOLD`; None for any other."""
        return self.logits > LABEL_THRESHOLD if self.head.task == "multilabel" else None

    def replace(self, **changes: object) -> Activations:
        """Return a copy with some fields replaced: how a rectifier hands changed activations on."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def second_pass(self) -> tuple[SecondPass, Tensor]:
        """The classifier and the inputs (N, ...), for a detector that declares `Needs.CLASSIFIER | Needs.INPUTS`.

        Raises
        ------
        InputError
            The pass was made without them, or the inputs are not tensors.
        """
        if self.classifier is None or self.inputs is None:
            raise InputError(
                "this detector runs the classifier again, and these activations hold no classifier or no inputs. Make "
                "the pass by score(...) or a Guard, or with needs=detector.all_needs."
            )
        if not isinstance(self.inputs, Tensor):
            raise InputError(
                "this detector runs the classifier again on inputs that it changed a little, which takes one tensor "
                "per batch, such as images; these inputs are several, such as tokens and their mask."
            )
        return self.classifier, self.inputs

    def require_observed(self) -> Int[Tensor, " n"]:
        """The token that came after each row (N,), for a detector that declares `Needs.OBSERVED`.

        Raises
        ------
        InputError
            The classifier predicts no next token.
        """
        found = None if self.places is None else self.places.known.get(OBSERVED)
        if found is None:
            raise InputError(f"this detector {NOT_OBSERVED}")
        return found.to(self.logits.device)

    def require_feature_map(self) -> Float[Tensor, "n k h w"]:
        """The feature map, for a detector that declares `Needs.FEATURE_MAP`.

        Raises
        ------
        InputError
            The pass was made without it.
        """
        if self.feature_map is None:
            raise InputError(
                "this detector reads the feature map, and these activations hold none. Make the pass by score(...) or "
                "a Guard, or with needs=detector.all_needs."
            )
        return self.feature_map

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Activations:
        """Return the same activations on another device, or in another floating dtype; itself where nothing changes."""
        features = self.features.to(device=device, dtype=dtype)
        if features is self.features:
            return self
        return self.replace(
            features=features,
            logits=self.logits.to(features),
            head=self.head.to(features),
            feature_map=None if self.feature_map is None else self.feature_map.to(features),
            layers={name: value.to(features) for name, value in self.layers.items()},
        )

    def check_finite(self, where: str) -> None:
        """Raise `InputError`, with a count and the first sample, where features or logits hold NaN or infinity."""
        finite = torch.isfinite(self.features).all(1) & torch.isfinite(self.logits).all(1)
        if bool(finite.all()):
            return
        bad = torch.nonzero(~finite.cpu()).flatten()
        raise InputError(
            f"NaN or infinite activations in {len(bad)} of {len(self)} rows of {where} (first: sample "
            f"{int(self.samples[self.group[bad[0]]])} of the data set). Look at that input, or for half-precision "
            "overflow."
        )


LABEL_THRESHOLD = 0.0
"""A label of a multi-label classifier applies where its logit is above this: its probability is above one half."""


def predicted(logits: Float[Tensor, "n c"]) -> Int[Tensor, " n"]:
    """Class with the largest logit (N,); -1, no class, where there are no logits.

    Examples
    --------
    >>> predicted(torch.eye(2)), predicted(torch.ones(2, 0))
    (tensor([0, 1]), tensor([-1, -1]))
    """
    if logits.shape[1] == 0:
        return logits.new_full((logits.shape[0],), -1, dtype=torch.int64)
    return logits.argmax(1)
