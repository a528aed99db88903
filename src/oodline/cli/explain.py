"""`oodline explain`: which neurons are missing or unexpected for the predicted class of an image."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from oodline._util.files import check_writable
from oodline.cli.checks import check_data, check_guard, check_least, check_model, check_suffix, load_detectors
from oodline.cli.options import (
    DataOptions,
    DetectorsFrom,
    Json,
    ModelOptions,
    load_classifier,
    open_loader,
)
from oodline.cli.parameters import OUTPUT, FileDetector
from oodline.cli.running import RunOptions
from oodline.errors import DataError, SettingError

if TYPE_CHECKING:
    from PIL import Image

    from oodline.data.batch import Inputs
    from oodline.data.sources import ImageSource

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()
_FORMATS = (".png", ".svg", ".pdf")


def explain(
    guard: Path,
    image: str,
    *,
    index: int = 0,
    top: int = 8,
    detector: FileDetector = None,
    data: str | None = None,
    output: Annotated[Path | None, OUTPUT] = None,
    model: ModelOptions = _MODEL,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Explain the verdict on one image by its neurons and where they look, as text, a figure, or JSON.

    Lists the few neurons that usually contribute to the predicted class but do not for this image, and those that
    contribute although they usually do not. The figure lays maps of both over the image.

    Parameters
    ----------
    guard
        A guard file with a threshold, written by `oodline fit --calibrate`. If fitted with --neurons, the explanation
        also shows z-scores and training images.
    image
        An image file, or a data set of images or features from which --index selects one.
    index
        Position in the data set, from 0.
    top
        Number of neurons to show in each of the two lists.
    data
        The training data that the file was fitted on, to show the most activating images of each neuron in the figure.
        If omitted, the figure shows none.
    output
        Also write a figure to this file: .png, .svg or .pdf.
    json
        Print one JSON document on standard output and nothing else.
    """
    if output is not None:
        check_suffix("--output", output, _FORMATS)
        check_writable(output)
    check_least("--index", index, 0)
    check_least("--top", top, 1)
    check_guard(guard)
    check_model(model, needed=False)
    check_data(image, data)
    load_detectors(detectors_from)

    from oodline._util.files import write_atomically
    from oodline.data import open_images
    from oodline.guard.artifact import read_artifact
    from oodline.guard.guard import Guard

    running.show_warnings()
    loaded = load_classifier(model, read_artifact(guard), image, running=running)
    loaded_guard = Guard.load(
        guard,
        loaded.classifier,
        detector,
        class_names=loaded.class_names,
        allow_other_weights=model.allow_other_weights,
    )
    picture: Image.Image | None = None
    inputs: Inputs
    if loaded.of_features:
        if data is not None:
            raise SettingError("--data is for images, and the classifier reads precomputed features. Leave it out.")
        loader = open_loader(image, loaded, _DATA)
        _check_index(image, index, loader.num_samples, "samples")
        inputs = next(iter(loader.over([range(index, index + 1)]))).inputs
    else:
        source = open_images(image)
        _check_index(image, index, len(source), "images")
        picture = _read(source, index)
        inputs = loaded.preprocessing(picture).unsqueeze(0)
    training = None if data is None else open_images(data)
    [explanation] = loaded_guard.explain(inputs, top=top)
    if output is not None:
        sample = None if training is None else lru_cache(lambda i: _read(training, i))
        figure = explanation.plot(image=picture, sample=sample)
        write_atomically(output, lambda file: figure.savefig(file, format=output.suffix[1:], dpi=120))
    if json:
        print(explanation.to_json())
        return
    print(explanation)
    if output is not None:
        print(f"wrote {output}")


def _check_index(spec: str, index: int, size: int, what: str) -> None:
    if not 0 <= index < size:
        raise DataError(f"`--index` must be between 0 and {size - 1}, since {spec} holds {size} {what}; got {index}.")


def _read(source: ImageSource, i: int) -> Image.Image:
    from oodline.data.decoding import read_image

    if i >= len(source):
        raise DataError(
            f"--data holds {len(source)} images, but the guard file refers to image {i}: this is other data. Pass the "
            "training data that the file was fitted on."
        )
    return read_image(source, i)
