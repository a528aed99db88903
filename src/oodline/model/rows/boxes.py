"""Rows of object detectors: one per box that is left after non-maximum suppression, read by an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from oodline._util.checked import checked_fields
from oodline._util.ranges import Range
from oodline.data.batch import Inputs
from oodline.errors import HeadError, LabelError
from oodline.model.head import LinearHead
from oodline.model.no_head import NoHead
from oodline.model.rows.per_input import Drawn, Lowest
from oodline.model.rows.placed import PlacedRows, Returned


@dataclass(frozen=True, eq=False)
class FoundBoxes:
    """The boxes that an object detector found on one image.

    Parameters
    ----------
    features : Tensor (M, D)
        Of each box: what the layer that gives its logits reads.
    logits : Tensor (M, C)
        Of each box, before softmax or sigmoid.
    boxes : Tensor (M, 4)
        As the model returns them.
    scores : Tensor (M,)
        How sure the model is of each.
    labels : Tensor (M,), int64
        Its class, as the model numbers them.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1)
    >>> found = FoundBoxes(torch.ones(1, 8), torch.ones(1, 3), torch.tensor([[0.0, 0.0, 5.0, 5.0]]), one, one.long())
    >>> len(found.boxes)
    1
    """

    features: Float[Tensor, "m d"]
    logits: Float[Tensor, "m c"]
    boxes: Float[Tensor, "m 4"]
    scores: Float[Tensor, " m"]
    labels: Int[Tensor, " m"]


class BoxAdapter(Protocol):
    """How one kind of object detector is read: any callable of model and inputs will do."""

    def __call__(self, model: nn.Module, inputs: Inputs) -> Sequence[FoundBoxes]:
        """Run the model, which is in evaluation mode and without gradients, and say what it found on each image."""
        ...


BoxHead = LinearHead | NoHead


@checked_fields
@dataclass(frozen=True)
class Boxes(PlacedRows):
    """One row per box that an object detector found.

    Parameters
    ----------
    promise : {"image", "box"}
        "image": at most a fraction `false_alarm` of ID images has any flagged box, and a box is flagged where its score
        is below that threshold. "box": of ID images, a box that is drawn at random is flagged with at most that
        probability; it is calibrated on one box of each held-out image, drawn by a hash, since boxes of one image are
        not exchangeable with those of others but such draws are. An image is then flagged where Benjamini and
        Hochberg's procedure flags a box of it: its score is the p-value by which that is decided. `oodline.score`
        gives the score of the box that is drawn.
    fit_share : float
        Share of the boxes that detectors are fitted on, chosen by a hash.
    least : float
        Leave out boxes that the model is less sure of than this.

    Examples
    --------
    >>> Boxes(promise="box").per_input
    Drawn()
    """

    promise: Literal["image", "box"] = "image"
    fit_share: Annotated[float, Range(0, 1, above=True)] = 1.0
    least: Annotated[float, Range(0, 1)] = 0.0

    name: ClassVar = "boxes"
    unit: ClassVar = "box"

    @property
    def per_input(self) -> Lowest | Drawn:  # type: ignore[override]
        """The lowest score of an image's boxes, or that of one of them."""
        return Lowest() if self.promise == "image" else Drawn()

    def returned(self, model: nn.Module, output: Any, inputs: Inputs, heads: Mapping[str, Tensor]) -> Returned:
        """Never asked: an adapter reads the model."""
        raise HeadError("boxes are read by an adapter: BoxClassifier(model).")

    def labels(self, labels: Tensor, grid: tuple[int, ...], inputs: int) -> Int[Tensor, "n p"]:
        """Never asked: the class of a box is the one that the model gives it."""
        raise LabelError("the class of a box is the one that the model gives it; labels of a loader are not read.")


def check_boxes(found: Sequence[FoundBoxes], inputs: int, head: BoxHead) -> None:
    """Raise `HeadError` where an adapter did not return what it must.

    Examples
    --------
    >>> import torch
    >>> one = FoundBoxes(torch.ones(2, 3), torch.ones(2, 2), torch.ones(2, 4), torch.ones(2), torch.ones(2).long())
    >>> check_boxes([one], 1, NoHead(2, 4, logits=True))
    Traceback (most recent call last):
    oodline.errors.HeadError: the adapter's `features` must be (M, 4) for image 0; got (2, 3) for 2 boxes.
    """
    if len(found) != inputs:
        raise HeadError(f"the adapter must return one record per image, {inputs}; got {len(found)}.")
    sizes = {"features": (head.num_features,), "logits": (head.num_classes,), "boxes": (4,), "scores": (), "labels": ()}
    for i, each in enumerate(found):
        for name, size in sizes.items():
            shape = tuple(getattr(each, name).shape)
            if shape != (len(each.boxes), *size):
                wanted = ", ".join(["M", *map(str, size)]) + ("," if not size else "")
                raise HeadError(
                    f"the adapter's `{name}` must be ({wanted}) for image {i}; got {shape} for {len(each.boxes)} boxes."
                )
