"""Zero-shot classifiers: an image encoder, and vectors of class texts as the head (Radford et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MethodType
from typing import Annotated, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oodline._util.checked import checked
from oodline._util.ranges import LeftToIt, Positive
from oodline.errors import InputError, SettingError
from oodline.model.vectors import read_vectors

SCALE = 100.0
"""What trained CLIP models multiply cosines by; they state it as `logit_scale`."""

METHODS = ("get_image_features", "encode_image")
"""How transformers and open_clip call the encoder of a model of images and text."""


class TextHead(nn.Linear):
    """A head made of text: `scale * cos(features, text) + bias`, of features of unit length.

    It is one linear layer, `W = scale * text / |text|`. Every method that reads a linear head reads it, and those that
    need the cosines alone (`mcm`, `neglabel`) find them in it, whatever the scale.

    Parameters
    ----------
    text_features : Tensor or array (C, D), str or Path
        One vector per class, in the order of the classes: the text encoder's, of "a photo of a cat", or the mean over
        several prompts. Their length does not matter. Or a file that holds them.
    scale : float
        Above 0. Only the size of the logits depends on it.
    bias : float
        Added to every logit; SigLIP has one.

    Raises
    ------
    DataError
        They are not one vector per class.
    SettingError
        The scale is not above 0.

    Examples
    --------
    >>> head = TextHead([[2.0, 0.0], [1.0, 1.0]], scale=10)
    >>> head(torch.tensor([[0.0, 1.0]]))
    tensor([[0.0000, 7.0711]])
    """

    @checked
    def __init__(self, text_features: Annotated[Any, LeftToIt()], scale: Positive = SCALE, bias: float = 0.0) -> None:
        vectors = read_vectors(text_features, "text_features")
        super().__init__(vectors.shape[1], vectors.shape[0], bias=bool(bias))
        with torch.no_grad():
            self.weight.copy_(scale * vectors)
            if bias:
                self.bias.fill_(bias)
        self.requires_grad_(False)


class ZeroShot(nn.Module):
    """An image encoder and a `TextHead` as one classifier; `Classifier.zero_shot` makes one.

    The features that detectors read are the image features at unit length, so that the head gives the logits of them.

    Parameters
    ----------
    image_encoder : nn.Module or callable
        From images to image features (N, D): a CLIP kind of model of transformers (`get_image_features`) or open_clip
        (`encode_image`), an image tower, or a function of your own. Of a bound method the model is kept, too.
    head : TextHead
        Its classes.
    names : sequence of str, optional
        Of the classes.

    Raises
    ------
    SettingError
        The encoder cannot be called, or there are not as many names as classes.

    Examples
    --------
    >>> model = ZeroShot(nn.Flatten(), TextHead(torch.eye(3, 4)), ["a", "b", "c"])
    >>> model(torch.tensor([[[0.0, 5.0], [0.0, 0.0]]]))
    tensor([[  0., 100.,   0.]])
    """

    @checked
    def __init__(
        self,
        image_encoder: Annotated[nn.Module | Callable[..., Any], LeftToIt()],
        head: TextHead,
        names: Iterable[str] | None = None,
    ) -> None:
        super().__init__()
        self.method: str | None = None
        owner = image_encoder.__self__ if isinstance(image_encoder, MethodType) else None
        if isinstance(owner, nn.Module):  # so that its weights are moved, kept in evaluation mode and fingerprinted
            image_encoder, self.method = owner, cast(MethodType, image_encoder).__name__
        elif isinstance(image_encoder, nn.Module):
            self.method = next((name for name in METHODS if hasattr(image_encoder, name)), None)
        elif not callable(image_encoder):
            raise SettingError(
                "`image_encoder` must be a module or a function from images to image features; got "
                f"{type(image_encoder).__name__}."
            )
        self.encoder = image_encoder
        self.head = head  # the last linear layer, which is where a head is looked for
        self.class_names = None if names is None else tuple(names)
        if self.class_names is not None and len(self.class_names) != head.out_features:
            raise SettingError(
                f"`names` must be one per class; got {len(self.class_names)} for {head.out_features} text features."
            )

    def forward(self, *inputs: Tensor, **named: Any) -> Float[Tensor, "n c"]:
        """Logits (N, C) of images, given as the encoder takes them."""
        encode = self.encoder if self.method is None else getattr(self.encoder, self.method)
        features = image_features(encode(*inputs, **named))
        if features.ndim != 2 or features.shape[1] != self.head.in_features:
            raise InputError(
                f"the image encoder gives features of shape {tuple(features.shape)}, and the text features have "
                f"{self.head.in_features} numbers each: both must come from one model."
            )
        unit = nn.functional.normalize(features, dim=1)
        return cast(Tensor, self.head(unit.to(self.head.weight.dtype)))


def image_features(output: Any) -> Tensor:
    """The image features (N, D) in what an encoder returned.

    Raises
    ------
    InputError
        There are none.

    Examples
    --------
    >>> image_features(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    for name in ("image_embeds", "pooler_output"):
        if isinstance(found := getattr(output, name, None), Tensor):
            return found
    if isinstance(output, Tensor):
        return output
    raise InputError(
        f"the image encoder must return image features (N, D); got {type(output).__name__}. Pass a function that picks "
        "them out."
    )


def logit_scale_of(model: Any) -> tuple[float, float]:
    """Scale and bias of the logits, as a CLIP kind of model states them; 100 and 0 where it does not.

    Examples
    --------
    >>> logit_scale_of(nn.Flatten())
    (100.0, 0.0)
    """
    model = getattr(model, "__self__", model)
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    return (
        float(scale.detach().exp()) if isinstance(scale, Tensor) else SCALE,
        float(bias.detach()) if isinstance(bias, Tensor) else 0.0,
    )
