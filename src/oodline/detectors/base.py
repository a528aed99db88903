"""The contract of a detector: what it reads, what it is fitted from, and one score per sample.

A detector is a small `nn.Module`. Its fitted state is buffers, its forward is pure, and **a higher score always means
more in-distribution**. A new method is one class: subclass `Detector`, say `name` and `needs`, and write `score`. One
that is fitted also annotates its fitted tensors (`means: Fitted[Float[Tensor, "C D"]]`), and writes `statistics` and
`estimate`.
"""

from __future__ import annotations

import abc
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from oodline._util.checked import checked
from oodline._util.ranges import Refused
from oodline.detectors.declaration import check_declaration, check_scores
from oodline.detectors.fitted import fitted_tensors
from oodline.detectors.fitting import Fitting
from oodline.detectors.head_check import check_head
from oodline.detectors.paper import Paper, Preset
from oodline.errors import (
    DetectorError,
    InputError,
    NotFittedError,
    unknown_name,
)
from oodline.model.activations import Activations, Needs, needs_network
from oodline.model.classifier import Classifier
from oodline.model.layers import Layer
from oodline.model.precision import full_precision
from oodline.passes.engine import Engine
from oodline.passes.fit import fit_all

if TYPE_CHECKING:
    from oodline.preprocessing.kinds import AnyPreprocessing

MOST_ROWS = 65_536
"""Rows of the same inputs, such as pixels, that are scored at once."""

MOST_VALUES = 2**25
"""Logits of such rows, where a head has very many."""


def _prepared(init: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` that need not call that of `Detector`, where the place for fitted tensors is made."""

    @functools.wraps(init)
    def prepared(self: Detector, *settings: Any, **named: Any) -> None:
        Detector.__init__(self)
        init(self, *settings, **named)

    return prepared


class Detector(Fitting):
    """Base of every detector.

    A subclass takes its settings as keyword arguments and keeps each under its own name, as scikit-learn does. They are
    checked against their annotations, which may say a range (`oodline._util.ranges`), before its `__init__` runs. It
    says `name` and `needs` and writes `score`; everything else may be left out.

    Raises
    ------
    DetectorError
        When the class is made: it does not say `name` or `needs`, or says one of its class variables in another form.

    Examples
    --------
    >>> class LargestFeature(Detector):
    ...     name = "largest-feature"
    ...     needs = Needs.FEATURES
    ...
    ...     def score(self, activations):
    ...         return activations.features.amax(1)
    >>> from oodline.testing import activations_of
    >>> LargestFeature()(activations_of(torch.tensor([[1.0, 3.0]])))
    tensor([3.])
    """

    name: ClassVar[str]
    """Name in tables, files and on the command line: lowercase letters, digits and hyphens."""
    paper: ClassVar[Paper | None] = None
    """The publication whose formula it computes, where there is one."""
    needs: ClassVar[Needs]
    """What it reads of the activations."""
    presets: ClassVar[Mapping[str, Preset]] = {}
    """Settings by data set and network, as papers state them."""

    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Settings that depend on classifier and data, each with the values that `tune` tries, the mildest first."""

    unstated: ClassVar[Mapping[str, Any]] = {}
    """What settings that an older file does not state meant when it was written, where that is not their default."""

    experimental: ClassVar[str] = ""
    """What is uncertain about it, where the published description leaves something open; empty for all others."""

    is_log: bool = False
    """Whether the score is the logarithm of a positive one, so that adding to it multiplies that one."""

    is_log_probability: bool = False
    """Whether that positive one is a class probability."""

    not_exportable: ClassVar[str] = ""
    """Why its score is not a graph of tensors that `oodline.guard.export` could write; empty for all others."""

    layers: Collection[Layer] = ()
    """Modules of the classifier whose output it reads, by name, or what it reads of them (`LayerReading`)."""

    members_left_out: Mapping[str, str] = MappingProxyType({})
    """Members that it does without, and why; a detector made of detectors may have some."""

    reason: str = ""
    """Why it has the members it has, where the fit chose them; empty for all others."""

    unreliable: str = ""
    """Why its scores say little on the data that it was fitted on; empty where they do. Set by `estimate`; `Fuse` does
    without such a member. Not kept in files."""

    argument_remedy: ClassVar = "A detector is an object such as LINe(), or a name such as 'line'."

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_declaration(cls)
        cls.fitted_tensors = fitted_tensors(cls)
        if "__init__" in vars(cls):
            init = checked(_prepared(cls.__init__))
            setattr(cls, "__init__", init)  # noqa: B010  # a method that mypy knows as another one

    @classmethod
    def of_argument(cls, value: Any) -> Self:
        """The detector of a name such as `line` or `line,p_a=0.2`, where an argument must be a detector."""
        from oodline.detectors.catalog import create_detector

        found = create_detector(value) if isinstance(value, str) else value
        if not isinstance(found, cls):
            raise Refused
        return found

    def __init__(self) -> None:
        if "_buffers" in vars(self):
            return  # it was called before the `__init__` of a subclass
        super().__init__()
        for name in ("seen", *self.fitted_tensors):
            self.register_buffer(name, None)

    @classmethod
    @checked
    def preset(cls, name: str, **changes: Any) -> Self:
        """Build the detector with the settings that a paper states; `changes` override them.

        Raises
        ------
        UnknownNameError
            There is no preset of that name; the message says the nearest.

        Examples
        --------
        >>> from oodline import LINe
        >>> LINe.preset("cifar10-densenet100").settings["clip"]
        1.0
        """
        if name not in cls.presets:
            raise unknown_name(f"preset of {cls.__name__}", name, cls.presets)
        return cls(**{**cls.presets[name].settings, **changes})

    @abc.abstractmethod
    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """One score per sample (N,), higher = more in-distribution; called by `forward`, which checks first."""

    def forward(self, activations: Activations) -> Float[Tensor, " n"]:
        """Score a batch.

        Parameters
        ----------
        activations : Activations
            Of N samples, on any device; computed in the dtype of the detector's state.

        Returns
        -------
        Tensor (N,)
            Higher = more in-distribution. A sample's score does not depend on the others in the batch.

        Raises
        ------
        InputError
            Something other than activations is given, such as images.
        NotFittedError
            The detector needs fitting first.
        MismatchError
            The activations come from a head of another size.
        HeadError
            The detector needs one linear layer as head, and this head has several.
        DetectorError
            `score` does not return a floating-point tensor (N,).
        """
        if not isinstance(activations, Activations):
            raise InputError(
                f"a detector scores Activations, which a classifier computes; got {type(activations).__name__}. Call "
                "detector(classifier(inputs)), or Guard(classifier, detector) for verdicts on inputs."
            )
        if not self.fitted:
            raise NotFittedError(f"{type(self).__name__} is not fitted. Call {type(self).__name__}.fit(...) first.")
        check_head(self, activations.head, self.fitted_on)
        state = next((b for b in self._buffers.values() if b is not None and b.is_floating_point()), None)
        if state is not None:
            activations = activations.to(state.device, state.dtype)
        # scores are differences of large sums: they keep full precision where the network itself runs in half
        with full_precision(activations.features.device.type):
            scores = self.score(activations)
        if not torch.compiler.is_compiling():  # there, the size of a batch is a symbol
            check_scores(f"{type(self).__name__}.score", scores, len(activations))
        return scores

    def score_rows(self, activations: Activations) -> Float[Tensor, " n"]:
        """As a call; many rows of few inputs, such as pixels, are scored in parts, so that memory is bounded."""
        if len(activations) == 0:  # no box was found
            return activations.features.new_zeros(0)
        most = max(min(MOST_ROWS, MOST_VALUES // max(activations.logits.shape[1], 1)), 1)
        found = [self(part) for part in activations.parts(most)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def fit(
        self,
        classifier: Classifier,
        loader: Iterable[Any] = (),
        *,
        engine: Engine | None = None,
        progress: bool = False,
    ) -> Self:
        """Fit on ID training data in one forward pass; see `oodline.fit`, also to fit many in the same pass.

        The loader may be left out for a detector that reads no data.
        """
        fit_all({self.name: self}, classifier, loader, engine=engine, progress=progress)
        return self

    @property
    def members(self) -> list[tuple[str, Detector]]:
        """The detectors it is made of, by attribute name."""
        return [(name, child) for name, child in self.named_children() if isinstance(child, Detector)]

    @property
    def all_needs(self) -> Needs:
        """What it and its members read."""
        needs = self.needs
        for _, member in self.members:
            needs |= member.all_needs
        return needs

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """Modules of the classifier whose output it and its members read."""
        return (*self.layers, *(layer for _, member in self.members for layer in member.all_layers))

    @property
    def needs_network(self) -> bool:
        """Whether it or a member reads more than features, logits and head, which can be kept without the network.

        Examples
        --------
        >>> from oodline import NAP, LINe
        >>> LINe().needs_network, NAP().needs_network
        (False, True)
        """
        return needs_network(self.all_needs, self.all_layers)

    @property
    def why_not_exportable(self) -> str:
        """Why it, or a member, cannot become a graph; empty where it can.

        Examples
        --------
        >>> from oodline import ODIN, Energy
        >>> Energy().why_not_exportable
        ''
        >>> ODIN().why_not_exportable
        'ODIN runs the classifier again or differentiates it, and a graph is one forward pass'
        """
        own = self.not_exportable
        if not own and Needs.CLASSIFIER in self.needs:
            own = "runs the classifier again or differentiates it, and a graph is one forward pass"
        found = [f"{type(self).__name__} {own}"] if own else []
        return "; ".join(found + [why for _, member in self.members if (why := member.why_not_exportable)])

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, by name; a member is given as the detector it is, several as a tuple.

        Raises
        ------
        DetectorError
            The constructor does not keep an argument under its own name.
        """
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        if missing := [name for name in names if not hasattr(self, name)]:
            raise DetectorError(
                f"every setting must be kept under its own name; {type(self).__name__} does not keep '{missing[0]}'. "
                f"Write self.{missing[0]} = {missing[0]} in __init__."
            )
        return {name: getattr(self, name) for name in names}

    def use_preprocessing(self, preprocessing: AnyPreprocessing) -> None:
        """Take settings that depend on the preprocessing from it, where they were left open; called before scoring."""
        for _, member in self.members:
            member.use_preprocessing(preprocessing)

    def use_classifier(self, classifier: Classifier) -> None:
        """Take settings that depend on the network from it, where they were left open; called by `fit` before its pass.

        Raises
        ------
        HeadError, InputError
            The network does not have what it needs.
        """
        for _, member in self.members:
            member.use_classifier(classifier)

    def extra_repr(self) -> str:
        """The settings, as they would be written."""
        return ", ".join(f"{k}={v!r}" for k, v in self.settings.items() if not is_member(v))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # a fresh detector does not know the sizes of its state yet: take them from the file
        for name in ("seen", *self.fitted_tensors):
            if (value := state_dict.get(prefix + name)) is not None:
                self._buffers[name] = torch.empty_like(value)
        super()._load_from_state_dict(state_dict, prefix, *args)


def is_member(setting: Any) -> bool:
    """Whether a setting is a detector, or a tuple of detectors.

    Examples
    --------
    >>> from oodline import Energy
    >>> is_member(Energy()), is_member((Energy(), Energy())), is_member(0.5)
    (True, True, False)
    """
    several = setting if isinstance(setting, tuple) else (setting,)
    return bool(several) and all(isinstance(one, Detector) for one in several)
