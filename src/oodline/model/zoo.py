"""Load a classifier and its preprocessing by reference: `timm:`, `torchvision:`, `hf:` and `python:`.

A `python:` reference runs the code it names, which is why it is followed only when a user writes it, never when a file
does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from oodline._util.checked import checked
from oodline._util.spec import Reference, parse_reference
from oodline._util.warning import warn
from oodline.errors import ModelError, SettingError
from oodline.model.libraries import EXAMPLES, LOADERS, WITH_ROWS, Source
from oodline.model.text_models import check_padding
from oodline.model.weights import load_weights
from oodline.preprocessing.kinds import AnyPreprocessing, preprocessing_of
from oodline.preprocessing.text import TextPreprocessing


@dataclass(frozen=True)
class LoadedModel:
    """A classifier in evaluation mode, with what its source says of it.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    preprocessing : Preprocessing or TextPreprocessing, optional
        As the model's own configuration has it: of images, or the tokenizer of a model of texts.
    class_names : tuple of str, optional
        In the order of the logits.
    head : str, optional
        Name of the head, where the source states it.
    preprocessing_origin : str
        How the preprocessing is known, in words; empty where there is none.
    """

    model: nn.Module
    preprocessing: AnyPreprocessing | None = None
    class_names: tuple[str, ...] | None = None
    head: str | None = None
    preprocessing_origin: str = ""


@checked
def load_model(
    reference: str,
    weights: str | Path | None = None,
    *,
    preprocessing: AnyPreprocessing | None = None,
    rows: str | None = None,
) -> LoadedModel:
    """Build the classifier that a reference names.

    Its preprocessing is that of its library: the pixels of test images are compared with those of the library's own
    transform, and where they cannot be the same, an error says so. A classifier of texts (`hf:`, sequence
    classification) comes with the tokenizer of the same folder or name; `,max_length=128` makes its texts shorter.

    Parameters
    ----------
    reference : str
        `timm:NAME`, `torchvision:NAME`, `hf:NAME_OR_FOLDER` or `python:MODULE_OR_FILE:FACTORY`, each with options for
        its constructor as `,key=value`. Pretrained weights are fetched by the library that has them, unless
        `weights` is given or the reference says `pretrained=false`. Of torchvision's several weights,
        `,weights=IMAGENET1K_V1` says which.
    weights : str or Path, optional
        A file of weights to load into it.
    preprocessing : Preprocessing or TextPreprocessing, optional
        In place of the library's own, which is then not looked at. A record of a tokenizer, from a guard file, is
        compared with the model's own, which is what is used.
    rows : str, optional
        What the model gives one decision of: "pixels" for a segmentation network of torchvision or transformers,
        "boxes" for an object detector of torchvision, "tokens" for a language model or a classifier of tokens of
        transformers. If omitted, the whole input.

    Raises
    ------
    ModelError
        Unknown scheme, name or factory, a constructor that fails, weights that do not fit or cannot be read, a
        preprocessing that cannot be expressed.
    MissingExtraError
        timm or transformers is not installed.

    Warns
    -----
    UserWarning
        Weights are loaded from a file, and torchvision prepares images in several ways for this model.
    UserWarning
        What a model says of a text depends on the padding beside it.
    PreprocessingWarning
        The tokenizer is not the one that `preprocessing` is a record of.

    Examples
    --------
    >>> loaded = load_model("torchvision:resnet18,pretrained=false,num_classes=10")
    >>> loaded.model.fc.out_features, loaded.preprocessing.crop
    (10, 224)
    """
    parsed = parse_reference(reference, EXAMPLES)
    if parsed.scheme is None:
        raise ModelError(
            f"'{reference}' does not say where the model comes from. Write {', '.join(EXAMPLES.values())}."
        )
    options = dict(parsed.options)
    if parsed.scheme != "python":
        options["pretrained"] = options.get("pretrained", weights is None)
    load = WITH_ROWS.get((parsed.scheme, rows or ""), LOADERS[parsed.scheme])
    source = load(Reference(parsed.scheme, parsed.name, options))
    origin = "given, and not compared with any other"
    if (source.texts is not None) != isinstance(preprocessing, TextPreprocessing) and preprocessing is not None:
        reads, given = ("images", "a tokenizer") if source.texts is None else ("texts", "a preprocessing of images")
        raise ModelError(f"{parsed.scheme}:{parsed.name} is a model of {reads}, and {given} was given. Leave it out.")
    if source.texts is not None:
        own = source.texts()
        preprocessing = preprocessing.with_tokenizer_of(own) if isinstance(preprocessing, TextPreprocessing) else own
        origin = f"the tokenizer of {parsed.scheme}:{parsed.name}"
    elif preprocessing is None:
        preprocessing = _preprocessing(parsed, source)
        origin = (
            "as the model states it"
            if parsed.scheme == "python"
            else f"pixels of test images equal those of the transform of {parsed.scheme}"
        )
        if weights is not None and source.ambiguous:
            warn(source.ambiguous)
    if weights is not None:
        load_weights(source.model, weights)
    source.model.eval()
    if isinstance(preprocessing, TextPreprocessing) and source.texts is not None:
        check_padding(parsed.name, source.model, preprocessing)
    return LoadedModel(
        source.model, preprocessing, source.class_names, source.head, origin if preprocessing is not None else ""
    )


def _preprocessing(reference: Reference, source: Source) -> AnyPreprocessing | None:
    try:
        transform, mode = source.transform()
        return None if transform is None else preprocessing_of(transform, mode=mode)
    except SettingError as error:
        raise ModelError(
            f"how {reference.scheme}:{reference.name} prepares images is not known: {error} On the command line: "
            '--preprocessing \'{"resize": ..., "crop": ..., "mean": [...], "std": [...]}\'.'
        ) from error


def best_device() -> str:
    """The GPU of this process if there is one, else the CPU.

    >>> best_device() in ("cpu", "cuda:0")
    True
    """
    # torchrun tells every process of a machine which of its GPUs is its own
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def move(model: nn.Module, device: str) -> nn.Module:
    """Move a model to a device by its name.

    Raises
    ------
    SettingError
        There is no such device here.

    Examples
    --------
    >>> move(nn.Linear(2, 2), "cpu").weight.device
    device(type='cpu')
    """
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers")
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise SettingError(
            f"the device '{device}' cannot be used: {reason}. Choose another --device, such as cpu."
        ) from error
