"""`BoxClassifier`: an object detector, read as one row of features and logits per box that it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import LeftToIt
from oodline.data.batch import Inputs, as_tensors
from oodline.errors import ExportError, InputError
from oodline.model.activations import Activations, Needs
from oodline.model.eval_mode import evaluating
from oodline.model.forward import moved
from oodline.model.head import Head, HeadInfo
from oodline.model.layers import Layer
from oodline.model.no_head import NoHead
from oodline.model.outputs import tensors_of
from oodline.model.reading import at_least_float32
from oodline.model.rows.boxes import BoxAdapter, Boxes, BoxHead, FoundBoxes, check_boxes
from oodline.model.rows.places import Places, mean_by, positions
from oodline.model.rows.row_classifier import RowClassifier
from oodline.model.rows.torchvision_boxes import adapter_of
from oodline.model.wrappers import unwrapped


class BoxClassifier(RowClassifier):
    """An object detector with one decision per box; everything that takes a `Classifier` takes it.

    Detectors are fitted on the boxes that the model finds on ID images, each of the class that the model gives it. A
    `Guard` says of each box whether its features are unlike those of such boxes.

    Parameters
    ----------
    model : nn.Module
        A Faster R-CNN, RetinaNet or FCOS of torchvision; or any model with an `adapter`.
    adapter : callable, optional
        From model and inputs to one `FoundBoxes` per image.
    rows : Boxes
        What is promised, and which boxes count.
    head : LinearHead or NoHead
        For an `adapter`: what gives the logits of the features, `LinearHead(weight, bias)`; where there is no such
        layer, `NoHead(num_classes, num_features, logits=True)`, and detectors that need one are refused by name.

    Raises
    ------
    HeadError
        The model is not known and there is no adapter, or no head.

    Examples
    --------
    A toy that finds one box in each image, whose features are its mean colour:

    >>> import oodline as ol
    >>> head = ol.LinearHead(torch.eye(2, 3), torch.zeros(2))
    >>> def read(model, images):
    ...     means = images.mean((2, 3))
    ...     logits, boxes = head(means), torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    ...     scores = logits.softmax(1).amax(1)
    ...     parts = zip(means, logits, scores, logits.argmax(1), strict=True)
    ...     return [ol.FoundBoxes(m[None], z[None], boxes, s[None], c[None]) for m, z, s, c in parts]
    >>> classifier = ol.BoxClassifier(nn.Identity(), read, head=head)
    >>> _ = torch.manual_seed(0)
    >>> detector = ol.Mahalanobis(by="all").fit(classifier, torch.rand(50, 3, 4, 4))
    >>> guard = ol.Guard(classifier, detector).calibrate(torch.rand(50, 3, 4, 4))
    >>> guard(torch.ones(1, 3, 4, 4)).rows()[0]["boxes"][0]["class_name"]
    'unknown'
    """

    rows: Boxes
    reads_labels: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        model: Annotated[nn.Module, LeftToIt()],
        adapter: Annotated[BoxAdapter | None, LeftToIt()] = None,
        rows: Boxes | None = None,
        *,
        head: Annotated[BoxHead | None, LeftToIt()] = None,
    ) -> None:
        self.model, self.rows = unwrapped(model), rows or Boxes()
        self.dtype, self.feature_map_name, self._passes = "float32", None, None
        if adapter is None:
            self._adapter, self._head = adapter_of(self.model)
        elif head is None:
            raise InputError(
                "`head` must be given with an adapter: LinearHead(weight, bias), or NoHead(num_classes, num_features, "
                "logits=True) where no linear layer gives the logits."
            )
        else:
            self._adapter, self._head = adapter, head

    @property
    def head(self) -> Head:
        """What gives the logits of a box, or what stands in its place."""
        return self._head

    @property
    def head_name(self) -> str:
        """Its name in the model."""
        return self._head.name

    @property
    def head_is_named(self) -> bool:
        """An adapter knows it."""
        return True

    @property
    def first_head_name(self) -> str:
        """The same before any pass."""
        return self._head.name

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next((p.device for p in self.model.parameters()), self._head.device)

    def expect(self, known: HeadInfo) -> None:
        """The head is the adapter's."""

    def __repr__(self) -> str:
        head = self._head
        return f"BoxClassifier({type(self.model).__name__}, classes={head.num_classes}, features={head.num_features})"

    def __call__(
        self,
        inputs: Inputs,
        *,
        needs: Needs = Needs.LOGITS,
        layers: Sequence[Layer] = (),
        index: Tensor | None = None,
    ) -> Activations:
        """Run the model once over a batch of N images; one row for each box.

        Raises
        ------
        HeadError
            The adapter does not return what it must.
        InputError
            More is asked for than boxes can have, or features or logits hold NaN or infinity.
        """
        if why := self.lacking(needs, layers):
            raise InputError(f"this pass {why}")
        inputs = moved(self.model, self.device, as_tensors(inputs))
        count = next(tensors_of(inputs)).shape[0]
        with evaluating(self.model), torch.no_grad():
            found = self._adapter(self.model, inputs)
        check_boxes(found, count, self._head)
        kept = [_sure(each, self.rows.least) for each in found]
        features = at_least_float32(torch.cat([each.features for each in kept]))
        places = self._box_places(kept, features, index)
        logits = torch.cat([each.logits for each in kept]).to(features)
        return self._record(features, logits, places, inputs if Needs.INPUTS in needs else None)

    def lacking(self, needs: Needs, layers: Sequence[Layer] = ()) -> str:
        """What boxes cannot have, and what to do; empty where nothing is missing."""
        if isinstance(self._head, NoHead) and needs & (Needs.HEAD | Needs.LINEAR_HEAD):
            return (
                "needs one head from features to logits, and the boxes of this model have none, such as where each "
                "anchor has its own layer. Take one that reads features or logits: `oodline methods` says which."
            )
        return super().lacking(needs, layers)

    def trace(self, inputs: Inputs, *, needs: Needs = Needs.LOGITS, layers: Sequence[Layer] = ()) -> Activations:
        """An object detector cannot become a graph here; raises `ExportError`."""
        raise ExportError(
            "an object detector cannot be exported with its guard: which boxes are left depends on values."
        )

    def _labels(self, labels: Tensor | None, places: Places) -> Tensor:
        return places.known["label"].cpu()

    def _box_places(self, found: Sequence[FoundBoxes], features: Tensor, index: Tensor | None) -> Places:
        counts = [len(each.boxes) for each in found]
        group = torch.arange(len(found)).repeat_interleave(torch.tensor(counts))
        place = torch.cat([torch.arange(count) for count in counts])
        known = {
            "box": torch.cat([each.boxes for each in found]),
            "sure": torch.cat([each.scores for each in found]),
            "label": torch.cat([each.labels for each in found]).long(),
        }
        means = mean_by(features, group, len(found))
        return Places(group, place, positions(index, len(found)), (), self.rows.per_input, means, known)


def _sure(found: FoundBoxes, least: float) -> FoundBoxes:
    if least == 0:
        return found
    kept = found.scores >= least
    return FoundBoxes(*(value[kept] for value in vars(found).values()))
