"""`Forward`: features and logits of a network that is being trained, with gradients, for losses that read both."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import LeftToIt
from oodline.data.batch import Inputs, as_tensors
from oodline.errors import HeadError, InputError
from oodline.model.activations import Activations, Needs
from oodline.model.classifier import Classifier
from oodline.model.eval_mode import evaluating
from oodline.model.forward import forward, moved
from oodline.model.head import LayeredHead
from oodline.model.head_reader import HeadReader
from oodline.model.hooks import last_pooling, listening, submodule
from oodline.model.outputs import feature_map_of, first_rows, logits_of, with_mask
from oodline.model.reading import at_least_float32
from oodline.model.wrappers import unwrapped

FEW = 8
"""Samples by which the head is found."""


class Forward:
    """Run a network in the mode it is in, and read features, logits and head with gradients.

    The network is neither changed nor put into another mode: call `model.train()` yourself. A model that
    `DistributedDataParallel` wraps is run by its wrapper. Mixed precision is yours as well, by `torch.autocast` around
    the call; features and logits come back in float32.

    Parameters
    ----------
    model : nn.Module
        A classifier, as `oodline.Classifier` takes it.
    head : str, optional
        Name of its head. If omitted, the first call finds it, by one pass in evaluation mode over a few samples.
    feature_map : str, optional
        Module whose output is the feature map, for losses that read it. If omitted, the input of the last average
        pooling.

    Raises
    ------
    HeadError
        No head, as `oodline.Classifier`.

    Examples
    --------
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> forward = Forward(classifier.model)
    >>> activations = forward(loader[0][0])
    >>> activations.features.requires_grad, activations.head.weight.requires_grad
    (True, True)
    """

    @checked
    def __init__(
        self, model: Annotated[nn.Module, LeftToIt()], head: str | None = None, *, feature_map: str | None = None
    ) -> None:
        self.model = model
        self.classifier = Classifier(model, head, feature_map=feature_map)
        self._inner = unwrapped(model)
        self._feature_map = feature_map
        self._reader: HeadReader | None = None
        if feature_map is not None:
            submodule(self._inner, feature_map)

    def __call__(self, inputs: Inputs, needs: Needs = Needs.LOGITS) -> Activations:
        """Run the network once over a batch.

        Parameters
        ----------
        inputs : Tensor, NumPy array or mapping
            What the model takes.
        needs : Needs
            What a loss reads, `loss.needs`. With `Needs.INPUTS`, the logits can be differentiated by
            `activations.inputs`.

        Raises
        ------
        HeadError
            No head, or one of several layers where a loss needs one matrix.
        InputError
            The model refuses the batch, or `Needs.INPUTS` is asked of inputs that are not one floating tensor.
        """
        inputs = moved(self._inner, self.classifier.device, as_tensors(inputs))
        reader = self.find_head(inputs)
        if Needs.INPUTS in needs:
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                raise InputError("this loss differentiates by the inputs, which must be one floating tensor.")
            inputs = inputs.detach().clone().requires_grad_()
        seen, logits = self._run(self.model, inputs, needs)
        read = reader.follow(seen, logits, detach=False)
        if Needs.LINEAR_HEAD in needs and isinstance(read.head, LayeredHead):
            raise HeadError(f"this loss needs a head of one linear layer; '{reader.name}' is several.")
        features = at_least_float32(read.features)
        feature_map = None
        if Needs.FEATURE_MAP in needs:
            feature_map = feature_map_of(self._inner, seen, read.features, named=self._feature_map is not None)
        return Activations(
            features=features,
            logits=at_least_float32(read.logits),
            head=read.head.to(features),
            index=torch.arange(len(features)),
            feature_map=feature_map,
            inputs=inputs if Needs.INPUTS in needs else None,
        )

    def find_head(self, inputs: Inputs) -> HeadReader:
        """Find the head by a pass over a few of the inputs, where none has been made yet; calls do it by themselves."""
        if self._reader is not None:
            return self._reader
        # by values and in evaluation mode: in training mode, dropout may stand between features and logits
        few = first_rows(inputs, FEW)
        self.classifier(few)
        self._reader = reader = HeadReader(self._inner, self.classifier.head_name)
        few = moved(self._inner, self.classifier.device, as_tensors(few))
        with evaluating(self._inner), torch.no_grad():
            reader.read(*self._run(self._inner, few, Needs.LOGITS))
        return reader

    def _run(self, model: nn.Module, inputs: Inputs, needs: Needs) -> tuple[dict[str, Any], Tensor]:
        assert self._reader is not None
        heard, outputs = self._reader.keys
        if Needs.FEATURE_MAP in needs:
            if self._feature_map is not None:
                outputs = outputs | {"feature map": self._feature_map}
            elif pool := last_pooling(self._inner):
                heard = heard | {"feature map": pool}
        with listening(self._inner, inputs=heard, outputs=outputs) as seen:
            output = forward(model, inputs)
        return with_mask(seen, inputs), logits_of(self._inner, output, inputs, binary=self._reader.binary)
