"""`Loading`: the methods of `Classifier` that make one from a reference, or from an encoder and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from oodline._util.checked import checked
from oodline._util.ranges import LeftToIt, Positive
from oodline.errors import SettingError
from oodline.model.head_name import Task
from oodline.model.precision import Dtype

if TYPE_CHECKING:
    from oodline.model.classifier import Classifier
    from oodline.model.rows.placed import PlacedRows
    from oodline.preprocessing.kinds import AnyPreprocessing


class Loading:
    """How a classifier is made other than from a module."""

    @classmethod
    @checked
    def load(
        cls,
        reference: str,
        weights: str | Path | None = None,
        *,
        head: str | None = None,
        binary: bool = False,
        task: Task | None = None,
        device: str | None = None,
        dtype: Dtype = "float32",
        compile: bool | str = False,
        preprocessing: AnyPreprocessing | None = None,
        rows: PlacedRows | str | None = None,
    ) -> Classifier:
        """The classifier that a reference names, with its preprocessing and class names, as the command line has it.

        Parameters
        ----------
        reference, weights, preprocessing
            As `oodline.load_model`: `timm:resnet50`, `torchvision:resnet50`, `hf:microsoft/resnet-50`,
            `python:my_models.py:build`.
        head : str, optional
            Name of the head, where it is not found on its own.
        binary : bool
            The model returns one logit z, of the second of two classes: take (0, z).
        task : {"multiclass", "multilabel"}, optional
            As `Classifier`.
        device : str, optional
            The GPU if there is one.
        dtype, compile
            As `Classifier`.
        rows : PlacedRows or str, optional
            For a model with several decisions per input, such as `Pixels(region=0.01)` or "pixels,region=0.01" for a
            segmentation network, a `RowClassifier` then; or "boxes" for an object detector, a `BoxClassifier`.

        Raises
        ------
        ModelError, MissingExtraError
            As `oodline.load_model`.
        HeadError
            As `Classifier`.
        SettingError
            There is no such device here; or `task` or `compile` is given with `rows`.

        Examples
        --------
        >>> from oodline import Classifier
        >>> classifier = Classifier.load("torchvision:resnet18,pretrained=false")
        >>> classifier.preprocessing.crop, classifier.class_names[:2]
        (224, ('tench', 'goldfish'))
        """
        from oodline.model.classifier import Classifier
        from oodline.model.rows.named import kind_of
        from oodline.model.rows.opening import open_rows
        from oodline.model.zoo import best_device, load_model, move  # torchvision, which most classifiers do not need

        for name, given in (("compile", compile), ("task", task == "multilabel")):
            if rows is not None and given:
                raise SettingError(f"`{name}` is for a model with one decision per input. Leave it out with `rows`.")
        loaded = load_model(
            reference, weights, preprocessing=preprocessing, rows=None if rows is None else kind_of(rows)
        )
        model = move(loaded.model, device or best_device())
        found: Classifier
        if rows is None:
            found = Classifier(model, head, binary=binary, task=task, dtype=dtype, compile=compile)
        else:
            found = open_rows(model, rows, head, binary=binary, dtype=dtype)
        found.preprocessing, found.class_names = loaded.preprocessing, loaded.class_names
        found.preprocessing_origin = loaded.preprocessing_origin
        return found

    @classmethod
    @checked
    def zero_shot(
        cls,
        image_encoder: Annotated[Any, LeftToIt()],
        text_features: Annotated[Any, LeftToIt()],
        *,
        scale: Positive | None = None,
        names: Sequence[str] | None = None,
    ) -> Classifier:
        """A classifier whose classes are texts, such as CLIP's: `scale * cos(image features, text features)`.

        Parameters
        ----------
        image_encoder : nn.Module or callable
            As `ZeroShot` takes it: a CLIP kind of model of transformers or open_clip, or a function from images to
            image features (N, D).
        text_features : Tensor or array (C, D), str or Path
            One vector per class, as `TextHead` takes them.
        scale : float, optional
            If omitted, what the model states as `logit_scale`, with its `logit_bias`; else 100.
        names : sequence of str, optional
            Of the classes, in their order.

        Raises
        ------
        DataError, SettingError
            As `TextHead` and `ZeroShot`.

        Examples
        --------
        >>> import torch
        >>> from torch import nn
        >>> from oodline import Classifier
        >>> classifier = Classifier.zero_shot(nn.Flatten(), torch.eye(3, 4), names=["cat", "dog", "cow"])
        >>> classifier(torch.ones(2, 1, 2, 2)).features  # image features of unit length
        tensor([[0.5000, 0.5000, 0.5000, 0.5000],
                [0.5000, 0.5000, 0.5000, 0.5000]])
        """
        from oodline.model.classifier import Classifier
        from oodline.model.zero_shot import TextHead, ZeroShot, logit_scale_of

        stated, bias = logit_scale_of(image_encoder) if scale is None else (scale, 0.0)
        model = ZeroShot(image_encoder, TextHead(text_features, stated, bias), names)
        found = Classifier(model, "head")
        found.class_names = model.class_names
        return found
