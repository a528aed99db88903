"""Split a frozen classifier once: features and logits in the same forward pass, the model left as it was.

What the head reads and returns is overheard for one call and by its own thread alone (`listening`), so any number of
detectors, guards and threads share one model and never see each other's values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from oodline.activations import Activations, Needs
from oodline.batch import Inputs, unpack
from oodline.errors import HeadError, InputError
from oodline.evaluating import evaluating
from oodline.head import Head, candidates, find_head, read_head
from oodline.listening import last_pooling, listening, submodule

if TYPE_CHECKING:
    from oodline.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of one number a sample with respect to what it was computed of.

    Parameters
    ----------
    inputs : Tensor (N, ...)
        With respect to the input.
    layers : mapping of str to Tensor
        The output of each named module, and the gradient with respect to it.

    Examples
    --------
    >>> classifier = Classifier(nn.Linear(2, 3))
    >>> classifier.gradients(torch.ones(4, 2), lambda logits: logits.amax(1)).inputs.shape
    torch.Size([4, 2])
    """

    inputs: Tensor
    layers: Mapping[str, tuple[Tensor, Tensor]]


class Classifier:
    """A trained classifier, split into features, head and logits.

    Parameters
    ----------
    model : nn.Module
        Any classifier whose last step is a linear layer; it returns logits (N, C), or an object or a dict with
        `logits` (transformers). It is used in evaluation mode and without gradients, and comes back with the
        modes, hooks and `requires_grad` it had.
    head : str, optional
        Name of the head, where it is not what timm states or the last `nn.Linear`; a 1x1 convolution after pooling and
        a Sequential of several layers must be named.
    feature_map : str, optional
        Name of the module whose output is the feature map; without it, the input of the last average pooling.

    Raises
    ------
    HeadError
        No head or several: the message lists the candidates and what to pass.

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

    preprocessing: Preprocessing | None = None
    """From an image to its input, where `load` knows it; guards carry it along."""

    class_names: tuple[str, ...] | None = None
    """In the order of the logits, where `load` knows them; guards carry them along."""

    def __init__(self, model: nn.Module, head: str | None = None, *, feature_map: str | None = None) -> None:
        self.model = model
        self.head_name = find_head(model, head)
        self.feature_map_name = feature_map
        self._num_classes = 0  # of a head of several layers: known after a first pass
        if feature_map is not None:
            submodule(model, feature_map)

    @classmethod
    def load(
        cls,
        reference: str,
        weights: str | Path | None = None,
        *,
        head: str | None = None,
        device: str | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> Classifier:
        """The classifier that a reference names, with its preprocessing and class names, as the command line has it.

        Parameters
        ----------
        reference, weights, preprocessing
            As `oodline.load_model`: `timm:resnet50`, `torchvision:resnet50`, `hf:microsoft/resnet-50`,
            `python:my_models.py:build`.
        head : str, optional
            Name of the head, where it is not found on its own.
        device : str, optional
            The GPU if there is one.

        Raises
        ------
        ModelError, MissingExtraError
            As `oodline.load_model`.
        HeadError
            As `Classifier`.
        SettingError
            There is no such device here.

        Examples
        --------
        >>> classifier = Classifier.load("torchvision:resnet18,pretrained=false")
        >>> classifier.preprocessing.crop, classifier.class_names[:2]
        (224, ('tench', 'goldfish'))
        """
        from oodline.zoo import best_device, load_model, move  # torchvision, which most classifiers do not need

        loaded = load_model(reference, weights, preprocessing=preprocessing)
        found = Classifier(move(loaded.model, device or best_device()), head or loaded.head)
        found.preprocessing, found.class_names = loaded.preprocessing, loaded.class_names
        return found

    @property
    def head(self) -> Head:
        """The head as it is now, sharing its tensors with the model."""
        with evaluating(self.model):  # reading a parametrised weight may change it in training mode
            return read_head(self.model.get_submodule(self.head_name), self.head_name, self._num_classes)

    @property
    def device(self) -> torch.device:
        """Where the head lives, and where inputs are moved to."""
        return next(self.model.get_submodule(self.head_name).parameters()).device

    def __repr__(self) -> str:
        head = self.head
        return (
            f"Classifier({type(self.model).__name__}, head='{self.head_name}', classes={head.num_classes or '?'}, "
            f"features={head.num_features})"
        )

    def __call__(
        self,
        inputs: Inputs,
        *,
        needs: Needs = Needs.LOGITS,
        layers: Sequence[str] = (),
        index: Tensor | None = None,
    ) -> Activations:
        """Run the model once over a batch.

        Parameters
        ----------
        inputs : Tensor or mapping
            What the model takes: a tensor as its one argument, a mapping as keyword arguments.
        needs : Needs
            Which optional fields to fill.
        layers : sequence of str
            Modules whose output to keep.
        index : Tensor (N,), optional
            Position of each sample in its data set; 0..N-1 without it.

        Raises
        ------
        HeadError
            The head was not called, or its output is not what the model returns.
        InputError
            The model refuses the batch, or features or logits hold NaN or infinity.
        """
        inputs = self._moved(inputs)
        with evaluating(self.model):  # once for all that follows: it walks over every module
            seen, logits = self._pass(inputs, needs, layers)
            features = self._features(seen, logits)
            if index is None:
                index = torch.arange(len(features))
            elif index.shape != (len(features),):
                raise InputError(
                    f"index has shape {tuple(index.shape)}; one position a sample, ({len(features)},), is needed."
                )
            activations = self._activations(inputs, seen, features, logits, index, needs, layers)
        activations.check_finite("this batch")
        if Needs.FEATURE_MAP in needs:
            return activations.replace(feature_map=self._feature_map(seen, features))
        return activations

    def trace(self, inputs: Inputs, *, needs: Needs = Needs.LOGITS, layers: Sequence[str] = ()) -> Activations:
        """The same pass for `torch.export`, which no value may lead astray: it checks nothing but shapes.

        Call the classifier itself on the same inputs before, so that everything has been checked once.
        """
        seen, logits = self._pass(self._moved(inputs), needs, layers)
        features = seen["features"].flatten(1)
        index = torch.arange(features.shape[0])  # len() would fix the size of the batch
        activations = self._activations(inputs, seen, features, logits, index, needs, layers)
        if Needs.FEATURE_MAP in needs:
            return activations.replace(feature_map=_at_least_float32(seen["feature map"]))
        return activations

    def _pass(self, inputs: Inputs, needs: Needs, layers: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        with evaluating(self.model), torch.no_grad(), self._listening(needs, layers) as seen:
            output = self._run(inputs)
        return seen, self._logits(output)

    def _activations(
        self,
        inputs: Inputs,
        seen: Mapping[str, Tensor],
        features: Tensor,
        logits: Tensor,
        index: Tensor,
        needs: Needs,
        layers: Sequence[str],
    ) -> Activations:
        features = _at_least_float32(features)
        return Activations(
            features=features,
            logits=_at_least_float32(logits),
            head=self.head.to(features),
            index=index,
            layers={name: _at_least_float32(_layer(seen, name)) for name in layers},
            inputs=inputs if Needs.INPUTS in needs else None,
            classifier=self if Needs.CLASSIFIER in needs else None,
        )

    def gradients(self, inputs: Inputs, scalar: Callable[[Tensor], Tensor], *, layers: Sequence[str] = ()) -> Gradients:
        """Differentiate one number a sample in one forward and one backward pass; parameters gather no gradient.

        Parameters
        ----------
        inputs : Tensor (N, ...)
            A floating tensor.
        scalar : callable
            From logits (N, C) to one number a sample (N,).
        layers : sequence of str
            Modules with respect to whose output to differentiate, too.

        Raises
        ------
        InputError
            The inputs are not one floating tensor, or the model refuses them.
        """
        inputs = self._moved(inputs)
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise InputError("gradients need inputs that are one floating tensor; tokens and mappings have none.")
        with evaluating(self.model), torch.enable_grad(), self._listening(Needs.LOGITS, layers) as seen:
            leaf = inputs.detach().clone().requires_grad_()
            values = scalar(_at_least_float32(self._logits(self._run(leaf))))
            outputs = [_layer(seen, name) for name in layers]
            try:
                found = torch.autograd.grad(values.sum(), [leaf, *outputs])
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                where = f" or the outputs of {', '.join(layers)}" if layers else ""
                raise InputError(f"the logits cannot be differentiated by the inputs{where}: {error}") from error
        pairs = zip(layers, outputs, found[1:], strict=True)
        return Gradients(
            _at_least_float32(found[0]),
            {name: (_at_least_float32(out.detach()), _at_least_float32(g)) for name, out, g in pairs},
        )

    def stream(
        self, loader: Iterable[Any], *, needs: Needs = Needs.LOGITS, layers: Sequence[str] = ()
    ) -> Iterator[tuple[Activations, Tensor | None]]:
        """Run the model once over a loader; yields (activations, labels or None) batch by batch.

        A batch may be a tensor, a mapping (with `labels` or `label`, as transformers has it), an `oodline.data.Batch`,
        or a sequence whose first two members are inputs and labels.

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

    def lacking(self, needs: Needs, layers: Sequence[str] = ()) -> str:
        """What it cannot give to a method that reads `needs` and `layers`, and what to do; empty: a model is asked."""
        return ""

    def _moved(self, inputs: Inputs) -> Inputs:
        if isinstance(inputs, Mapping):
            return {k: self._moved_tensor(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        if not isinstance(inputs, Tensor):
            raise InputError(f"a batch must be a tensor or a mapping of tensors, not {type(inputs).__name__}.")
        return self._moved_tensor(inputs)

    def _moved_tensor(self, inputs: Tensor) -> Tensor:
        if inputs.ndim == 0 or inputs.shape[0] == 0:
            raise InputError(f"a batch needs at least one sample; this one has shape {tuple(inputs.shape)}.")
        if inputs.is_floating_point() and not torch.is_autocast_enabled(self.device.type):
            dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), inputs.dtype)
            return inputs.to(self.device, dtype)
        return inputs.to(self.device)

    def _listening(self, needs: Needs, layers: Sequence[str]) -> AbstractContextManager[dict[str, Any]]:
        inputs, outputs = {"features": self.head_name}, {"head output": self.head_name}
        outputs |= {f"layer {layer}": layer for layer in layers}
        if Needs.FEATURE_MAP in needs:
            if self.feature_map_name is not None:
                outputs["feature map"] = self.feature_map_name
            elif pool := last_pooling(self.model):
                inputs["feature map"] = pool
        return listening(self.model, inputs=inputs, outputs=outputs)

    def _run(self, inputs: Inputs) -> Any:
        try:
            return self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
            shape = _shape(inputs)
            raise InputError(
                f"{type(self.model).__name__} refused a batch of shape {shape}: {error}. Check that it has a batch "
                "dimension, and the size, channels and dtype that the model was trained on."
            ) from error

    def _logits(self, output: Any) -> Tensor:
        if isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        output = getattr(output, "logits", output)
        if not isinstance(output, Tensor):
            raise HeadError(
                f"{type(self.model).__name__} returns a {type(output).__name__}, not one tensor of logits: it seems to "
                f"have several heads. Wrap it so that it returns the logits of one. {candidates(self.model)}"
            )
        if output.ndim != 2:
            raise InputError(
                f"the model returned logits of shape {tuple(output.shape)}, but one row a sample, (N, C), is needed. "
                "Check that the input has a batch dimension."
            )
        return output

    def _features(self, seen: dict[str, Tensor], logits: Tensor) -> Tensor:
        name = self.head_name
        if "features" not in seen:
            raise HeadError(f"the head '{name}' was not called in the forward pass. {candidates(self.model)}")
        features, output = seen["features"], seen["head output"]
        if features.ndim == 4 and features.shape[2:] == (1, 1):
            features = features.flatten(1)
        same = output.numel() == logits.numel() and torch.equal(output.reshape_as(logits).to(logits), logits)
        if not same and bool(torch.isfinite(logits).all()):
            raise HeadError(
                f"the output of '{name}', shape {tuple(output.shape)}, is not the logits that the model returns, shape "
                f"{tuple(logits.shape)}. {candidates(self.model)}"
            )
        if features.ndim != 2 or features.shape[1] != self.head.num_features:
            raise HeadError(
                f"the head '{name}' reads an input of shape {tuple(features.shape)}; one row of "
                f"{self.head.num_features} features a sample is needed."
            )
        self._num_classes = logits.shape[1]
        return features

    def _feature_map(self, seen: dict[str, Tensor], features: Tensor) -> Tensor:
        found = seen.get("feature map")
        advice = "Name the module whose output it is: Classifier(model, feature_map='NAME')."
        if not isinstance(found, Tensor) or found.ndim != 4:
            raise HeadError(f"no feature map (N, K, H, W) was found in {type(self.model).__name__}. {advice}")
        if self.feature_map_name is None and not (
            found.shape[1] == features.shape[1]
            and torch.allclose(found.float().mean((2, 3)), features.float(), rtol=1e-2, atol=1e-3)
        ):
            raise HeadError(
                f"the input of the last average pooling, shape {tuple(found.shape)}, does not average to the features, "
                f"shape {tuple(features.shape)}, and so is not the feature map. {advice}"
            )
        return _at_least_float32(found)


def _layer(seen: Mapping[str, Any], name: str) -> Tensor:
    found = seen.get(f"layer {name}")
    if not isinstance(found, Tensor):
        what = "was not called in the forward pass" if found is None else f"returns a {type(found).__name__}"
        raise HeadError(f"the layer '{name}' {what}; name one that returns one tensor on the way to the logits.")
    return found


def _shape(inputs: Inputs) -> Any:
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape)
    return {name: tuple(value.shape) for name, value in inputs.items() if isinstance(value, Tensor)}


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
