"""`Classifier`: features and logits of a frozen model from one forward pass, which leaves the model unchanged.

Inputs and outputs of the head are captured by forward hooks for one call and in its own thread only (`listening`), so
any number of detectors, guards and threads can share one model without seeing each other's values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import LeftToIt
from oodline.data.batch import Inputs, Loader, as_tensors, unpack
from oodline.errors import HeadError, InputError
from oodline.model.activations import NOT_OBSERVED, Activations, Needs
from oodline.model.compiled import CompiledPasses
from oodline.model.eval_mode import evaluating
from oodline.model.forward import forward, moved
from oodline.model.gradients import Gradients, SharedGradients
from oodline.model.head import Head, HeadInfo
from oodline.model.head_name import Task
from oodline.model.head_reader import HeadReader, Read
from oodline.model.hooks import last_pooling, listening, submodule
from oodline.model.layers import Layer, LayerReading, layer_key
from oodline.model.loading import Loading
from oodline.model.outputs import feature_map_of, first_rows, layer_output, logits_of, with_mask
from oodline.model.precision import Dtype, computing_in
from oodline.model.reading import at_least_float32
from oodline.model.starting import Accept, Start, starting
from oodline.model.wrappers import unwrapped

if TYPE_CHECKING:
    from oodline.model.rows.placed import PlacedRows
    from oodline.preprocessing.kinds import AnyPreprocessing


class Classifier(Loading):
    """A trained classifier, split into features, head and logits.

    Parameters
    ----------
    model : nn.Module
        Any classifier whose logits are `W f + b` of features f; it returns logits (N, C), or an object or a dict with
        `logits` (transformers). It is used in evaluation mode and without gradients, and comes back with the
        modes, hooks and `requires_grad` it had.
    head : str, optional
        Name of the head. If omitted, the first pass finds it: the linear layer or 1x1 convolution, or the weighted sum
        of several (`0.5*head + 0.5*head_dist`), whose `W f + b` equals the logits. An `nn.Sequential` of several layers
        must be named.
    feature_map : str, optional
        Name of the module whose output is the feature map. If omitted, the input of the last average pooling.
    binary : bool
        The model returns one logit z, of the second of two classes: take (0, z) as the logits.
    task : {"multiclass", "multilabel"}, optional
        What the logits are of: classes of which each sample has one (a softmax), or labels of which it has any number
        (a sigmoid each). Methods that need one class per sample refuse the second. If omitted, what the head's name
        says, `multilabel(fc)`, else "multiclass".
    dtype : {"float32", "bfloat16", "float16"}
        What the forward pass computes in, by autocast; weights stay as they are, and features and logits come back in
        float32. "float32" is the model as it is. `precision_change` measures what it does to scores.
    compile : bool or str
        Compile the forward pass by `torch.compile`, with this backend where one is named. It takes a while once, and
        pays for large data sets; where it cannot be done a warning says so, and the model runs as it is.

    Raises
    ------
    HeadError
        No head: the message lists the candidates and what to pass.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)))
    >>> classifier
    Classifier(Sequential, head='3', classes=3, features=5)
    >>> activations = classifier(torch.ones(2, 3, 2, 2))
    >>> activations.features.shape, activations.logits.shape
    (torch.Size([2, 5]), torch.Size([2, 3]))
    """

    preprocessing: AnyPreprocessing | None = None
    """From an image, or from texts, to inputs, where `load` knows it; guards carry it along."""

    preprocessing_origin: str = ""
    """How the preprocessing is known, in words, where `load` knows."""

    class_names: tuple[str, ...] | None = None
    """In the order of the logits, where `load` knows them; guards carry them along."""

    rows: PlacedRows | None = None
    """How one input has several rows, for `RowClassifier`; None: one row per input."""

    reads_labels: ClassVar[bool] = True
    """Whether labels of a loader are classes of its rows; those of boxes are the model's own."""

    argument_remedy: ClassVar = "Wrap the model: Classifier(model)."
    _windows: ClassVar = False

    @checked
    def __init__(
        self,
        model: Annotated[nn.Module, LeftToIt()],
        head: str | None = None,
        *,
        feature_map: str | None = None,
        binary: bool = False,
        task: Task | None = None,
        dtype: Dtype = "float32",
        compile: bool | str = False,
    ) -> None:
        self.model = unwrapped(model)
        self.dtype: Dtype = dtype
        self._passes = CompiledPasses("inductor" if compile is True else compile) if compile else None
        self._reader = HeadReader(
            self.model, head, binary=binary, task=task, guess=self._first_guess(self.model), windows=self._windows
        )
        self.feature_map_name = feature_map
        if feature_map is not None:
            submodule(self.model, feature_map)

    @staticmethod
    def _first_guess(model: nn.Module) -> str | None:
        return None

    @property
    def head(self) -> Head:
        """The head as it is now, sharing its tensors with the model where it is one layer."""
        return self._reader.head

    @property
    def head_name(self) -> str:
        """What makes the logits: a module's name, or a sum of such; `Classifier(model, head=...)` takes it again."""
        return self._reader.name

    @property
    def task(self) -> Task:
        """What the logits are of: classes of which each sample has one, or labels of which it has any number."""
        return self.head.task

    @property
    def head_is_named(self) -> bool:
        """Whether `head` was given, rather than found."""
        return self._reader.is_named

    @property
    def device(self) -> torch.device:
        """Where the head lives, and where inputs are moved to."""
        return self._reader.device

    @property
    def compiled_by(self) -> str:
        """What runs its passes, in words: a backend of `torch.compile`, or nothing."""
        return "as written" if self._passes is None else f"compiled by {self._passes.backend}"

    @property
    def compile_backend(self) -> str | None:
        """The backend of `torch.compile` that runs its passes, where one does."""
        return None if self._passes is None else self._passes.backend

    def computing(self) -> AbstractContextManager[object]:
        """What its passes run inside: autocast, where another `dtype` than float32 is asked for."""
        return computing_in(self.dtype, self.device)

    def expect(self, known: HeadInfo) -> None:
        """Take the head that something was fitted on, where none was named and no pass has shown it yet.

        Whether it is the head of this model, a pass shows as ever.
        """
        self._reader.expect_name(known.name)

    @property
    def first_head_name(self) -> str:
        """The head's name before any pass: the same for a model whatever was run, as the key of a cache must be."""
        return self._reader.first_name

    def __repr__(self) -> str:
        head = self.head
        return (
            f"Classifier({type(self.model).__name__}, head='{self.head_name}', classes={head.num_classes}, "
            f"features={head.num_features})"
        )

    def __call__(
        self,
        inputs: Inputs,
        *,
        needs: Needs = Needs.LOGITS,
        layers: Sequence[Layer] = (),
        index: Tensor | None = None,
    ) -> Activations:
        """Run the model once over a batch.

        Parameters
        ----------
        inputs : Tensor, NumPy array or mapping
            What the model takes: a tensor as its one argument, a mapping as keyword arguments.
        needs : Needs
            Which optional fields to fill.
        layers : sequence of str or LayerReading
            Modules whose output to keep, or what to read of it, such as `PooledLayer("layer1")`.
        index : Tensor (N,), optional
            Position of each sample in its data set. If omitted, 0..N-1.

        Raises
        ------
        HeadError
            The head was not called, or its output is not what the model returns.
        InputError
            The model refuses the batch, or features or logits hold NaN or infinity.
        """
        inputs = moved(self.model, self.device, as_tensors(inputs))
        with evaluating(self.model), self.computing():  # once for all that follows: it walks over every module
            seen, logits = self._pass(inputs, needs, layers)
            read = self._reader.read(seen, logits)
            if read is None:
                self._reader.search(lambda *keys: self._probe(inputs, *keys), logits.shape[1])
                seen, logits = self._pass(inputs, needs, layers)
                read = self._reader.read(seen, logits)
            if read is None:
                raise HeadError(f"'{self.head_name}' gives the logits of some samples and not of others.")
            if index is None:
                index = torch.arange(len(read.features))
            elif index.shape != (len(read.features),):
                raise InputError(
                    f"index must have one position per sample, ({len(read.features)},); got shape {tuple(index.shape)}."
                )
            activations = self._activations(inputs, seen, read, index, needs, layers)
        activations.check_finite("this batch")
        if Needs.FEATURE_MAP in needs:
            return activations.replace(
                feature_map=feature_map_of(self.model, seen, read.features, named=self.feature_map_name is not None)
            )
        return activations

    def trace(self, inputs: Inputs, *, needs: Needs = Needs.LOGITS, layers: Sequence[Layer] = ()) -> Activations:
        """The same pass without data-dependent checks, so that `torch.export` can trace it.

        Call the classifier itself on the same inputs before, so that everything has been checked once.
        """
        with self.computing():
            seen, logits = self._eager_pass(moved(self.model, self.device, inputs), needs, layers)
            read = self._reader.follow(seen, logits)
        index = torch.arange(read.features.shape[0])  # len() would fix the size of the batch
        activations = self._activations(inputs, seen, read, index, needs, layers)
        if Needs.FEATURE_MAP in needs:
            return activations.replace(feature_map=at_least_float32(seen["feature map"]))
        return activations

    def _pass(self, inputs: Inputs, needs: Needs, layers: Sequence[Layer]) -> tuple[dict[str, Any], Tensor]:
        compiled = self._passes
        if compiled is None or layers or not isinstance(inputs, Tensor) or not self._reader.is_proven:
            return self._eager_pass(inputs, needs, layers)
        one = len(inputs) == 1  # for which torch makes a graph of its own
        key = (self.head_name, Needs.FEATURE_MAP in needs, self.dtype, inputs.dtype, inputs.shape[1:], one)
        return compiled.run(key, self.model, lambda x: self._eager_pass(x, needs, ()), inputs)

    def _eager_pass(self, inputs: Inputs, needs: Needs, layers: Sequence[Layer]) -> tuple[dict[str, Any], Tensor]:
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        with evaluating(self.model), torch.no_grad(), self._listening(needs, layers, mask) as seen:
            output = forward(self.model, inputs)
        return with_mask(seen, inputs), self._logits(output, inputs)

    def _probe(self, inputs: Inputs, *keys: Mapping[str, str]) -> tuple[dict[str, Any], Tensor]:
        few = first_rows(inputs, 8)
        with torch.no_grad(), listening(self.model, inputs=keys[0], outputs=keys[1]) as seen:
            output = forward(self.model, few)
        return with_mask(seen, few), self._logits(output, few)

    def _activations(
        self,
        inputs: Inputs,
        seen: Mapping[str, Any],
        read: Read,
        index: Tensor,
        needs: Needs,
        layers: Sequence[Layer],
    ) -> Activations:
        features = at_least_float32(read.features)
        return Activations(
            features=features,
            logits=at_least_float32(read.logits),
            head=read.head.to(features),
            index=index,
            layers={name: at_least_float32(layer_output(seen, name)) for name in layers},
            inputs=inputs if Needs.INPUTS in needs else None,
            classifier=SharedGradients(self, inputs) if Needs.CLASSIFIER in needs else None,
        )

    def gradients(self, inputs: Inputs, scalar: Callable[[Tensor], Tensor], *, layers: Sequence[str] = ()) -> Gradients:
        """Differentiate one number per sample in one forward and one backward pass; parameters gather no gradient.

        Parameters
        ----------
        inputs : Tensor (N, ...)
            A floating tensor.
        scalar : callable
            From logits (N, C) to one number per sample (N,).
        layers : sequence of str
            Modules with respect to whose output to differentiate, too.

        Raises
        ------
        InputError
            The inputs are not one floating tensor, or the model refuses them.
        """
        inputs = moved(self.model, self.device, as_tensors(inputs))
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise InputError("gradients need inputs that are one floating tensor; tokens and mappings have none.")
        with (
            evaluating(self.model),
            self.computing(),
            torch.enable_grad(),
            self._listening(Needs.LOGITS, layers) as seen,
        ):
            leaf = inputs.detach().clone().requires_grad_()
            logits = self._logits(forward(self.model, leaf), leaf)
            values = scalar(at_least_float32(self._reader.follow(seen, logits).logits))
            return Gradients.of(values, leaf, {name: layer_output(seen, name) for name in layers})

    def features_from(
        self, inputs: Inputs, starts: Sequence[Start], accept: Accept
    ) -> tuple[Start, Tensor, Tensor] | None:
        """One forward pass that is differentiable from the last accepted start on, and has no graph before it.

        Parameters
        ----------
        inputs : Tensor or mapping
            As a call takes them.
        starts : sequence of Start
            Modules, and whether their input or their output.
        accept : callable
            From such a tensor and its module to whether the pass may start there.

        Returns
        -------
        Start, Tensor (N, ...), Tensor (N, D)
            The start, what the module read or returned, a leaf that requires a gradient, and the features as a function
            of it; None where no start was accepted.

        Raises
        ------
        HeadError
            There is no such module.
        """
        if not self._reader.is_proven:
            self(inputs)  # finds the head
        inputs = moved(self.model, self.device, as_tensors(inputs))
        with (
            evaluating(self.model),
            self.computing(),
            torch.no_grad(),
            starting(self.model, starts, accept) as leaves,
            self._listening(Needs.LOGITS, ()) as seen,
        ):
            logits = self._logits(forward(self.model, inputs), inputs)
            if not leaves:
                return None
            read = self._reader.follow(with_mask(seen, inputs), logits)
            return *leaves[-1], read.features

    @checked
    def stream(
        self, loader: Loader, *, needs: Needs = Needs.LOGITS, layers: Sequence[Layer] = ()
    ) -> Iterator[tuple[Activations, Tensor | None]]:
        """Run the model once over a loader; yields (activations, labels or None) batch by batch.

        A batch may be a tensor, a NumPy array, a mapping (with `labels` or `label`, as transformers has it), an
        `oodline.data.Batch`, or a sequence whose first two members are inputs and labels.

        Raises
        ------
        InputError
            The loader is empty.
        """
        total = 0
        for batch in loader:
            inputs, labels, index = unpack(batch, total)
            activations = self(inputs, needs=needs, layers=layers, index=index)
            total += len(activations)
            yield activations, labels
        if total == 0:
            raise InputError(
                "the loader yielded no batch. Check the path and the split, and whether the loader is a generator that "
                "was already used up."
            )

    def sampled(self) -> Self:
        """What statistics are to see: all of its rows."""
        return self

    def everywhere(self) -> Self:
        """The same classifier for inputs that are no data, such as a pattern: nothing in them decides what has rows."""
        return self

    def lacking(self, needs: Needs, layers: Sequence[Layer] = ()) -> str:
        """What it cannot give to a method that reads `needs` and `layers`, and what to do; empty: a model is asked."""
        return NOT_OBSERVED if Needs.OBSERVED in needs else ""

    def _listening(
        self, needs: Needs, layers: Sequence[Layer], mask: Any = None
    ) -> AbstractContextManager[dict[str, Any]]:
        inputs, outputs = self._reader.keys
        outputs |= {layer_key(layer): layer for layer in layers if isinstance(layer, str)}
        if Needs.FEATURE_MAP in needs:
            if self.feature_map_name is not None:
                outputs["feature map"] = self.feature_map_name
            elif pool := last_pooling(self.model):
                inputs["feature map"] = pool
        readings = [layer for layer in layers if isinstance(layer, LayerReading)]
        mask = mask if isinstance(mask, Tensor) else None
        return listening(self.model, inputs=inputs, outputs=outputs, readings=readings, mask=mask)

    def _logits(self, output: Any, inputs: Inputs) -> Tensor:
        return logits_of(self.model, output, inputs, binary=self._reader.binary)
