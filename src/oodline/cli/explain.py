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
    print_json,
)
from oodline.cli.parameters import OUTPUT, FileDetector
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.errors import DataError, SettingError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from oodline.data.batch import Inputs
    from oodline.data.sources import ImageSource
    from oodline.guard.guard import Guard

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()
_FORMATS = (".png", ".svg", ".pdf")


def explain(
    guard: Path,
    image: str,
    *,
    index: int = 0,
    top: int = 8,
    place: int | None = None,
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
    contribute although they usually do not. The figure lays maps of both over the image. For a guard of pixels, says
    how much of the image is flagged, and explains one pixel, where the file has what that needs. The figure shows the
    image beside its maps of classes and scores; with --place the neurons of that pixel.

    Parameters
    ----------
    guard
        A guard file with a threshold, written by `oodline fit --calibrate`. If fitted with --neurons, the explanation
        also shows z-scores and training images.
    image
        An image file, or a data set of images, texts or features from which --index selects one.
    index
        Position in the data set, from 0.
    top
        Number of neurons to show in each of the two lists.
    place
        For a guard of pixels, tokens or boxes: which one to explain, by its position in the flattened map, in the text
        or in the list of boxes, from 0. If omitted, the one of the lowest score.
    data
        The training data that the file was fitted on, to show the most activating images of each neuron in the figure.
        If omitted, the figure shows those that the file keeps (fitted with --neuron-pictures).
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
    check_least("--place", place or 0, 0)
    check_guard(guard)
    check_model(model, needed=False)
    check_data(image, data)
    load_detectors(detectors_from)

    from oodline._util.files import write_atomically
    from oodline.data import open_images
    from oodline.guard.artifact import read_artifact
    from oodline.guard.guard import Guard
    from oodline.preprocessing.preprocessing import Preprocessing

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
    if loaded.of_features or not isinstance(loaded.preprocessing, Preprocessing):
        if data is not None:
            reads = "precomputed features" if loaded.of_features else "texts"
            raise SettingError(f"--data is for images, and the classifier reads {reads}. Leave it out.")
        loader = open_loader(image, loaded, _DATA, labelled=False)
        _check_index(image, index, loader.num_samples, "samples")
        inputs = next(iter(loader.over([range(index, index + 1)]))).inputs
    else:
        source = open_images(image)
        _check_index(image, index, len(source), "images")
        if len(source) > 1 and not json:
            say(f"image {index} of {len(source)}, {source.name(index)}:")
        picture = _read(source, index)
        inputs = loaded.preprocessing(picture).unsqueeze(0)
    if loaded.classifier.rows is not None:
        shown = loaded.preprocessing
        pixels = shown.pixels(picture) if picture is not None and isinstance(shown, Preprocessing) else None
        _explain_rows(loaded_guard, inputs, pixels, output, top, place, as_json=json)
        return
    training = None if data is None else open_images(data)
    [explanation] = loaded_guard.explain(inputs, top=top, place=place)
    if output is not None:
        sample = None if training is None else lru_cache(lambda i: _read(training, i))
        figure = explanation.plot(image=picture, sample=sample)
        write_atomically(output, lambda file: figure.savefig(file, format=output.suffix[1:], dpi=120))
    if json:
        say(explanation.to_json())
        return
    say(explanation)
    if output is not None:
        say(f"wrote {output}")


def _explain_rows(
    guard: Guard,
    inputs: Inputs,
    pixels: Tensor | None,
    output: Path | None,
    top: int,
    place: int | None,
    *,
    as_json: bool,
) -> None:
    from oodline._util.files import write_atomically
    from oodline.guard.row_verdict import RowVerdict

    verdict, kind = guard(inputs), guard.classifier.rows
    assert isinstance(verdict, RowVerdict) and kind is not None
    [row] = verdict.rows()
    explanation = None
    if place is not None or (guard.explains and row["rows"]):
        [explanation] = guard.explain(inputs, top=top, place=place)
        row["explained"] = explanation.to_dict()
    if output is not None:
        if pixels is None:
            raise SettingError("a figure needs an image, and precomputed features were given. Leave out --output.")
        shown = (pixels if len(pixels) == 3 else pixels[:1]).unsqueeze(0)
        figure = verdict.plot(shown) if explanation is None or place is None else explanation.plot()
        write_atomically(output, lambda file: figure.savefig(file, format=output.suffix[1:], dpi=150))
    if as_json:
        print_json(row)
        return
    if not row["rows"]:
        say(f"nothing to judge: it has no {kind.name} that count")
        return
    word = "flagged as out-of-distribution" if row["is_ood"] else "accepted as in-distribution"
    say(
        f"{word}: score {row['score']:.4g}, threshold {row['threshold']:.4g}, p-value {row['p_value']:.2g}; "
        f"{row['flagged_share']:.1%} of {row['rows']} {kind.name} are below the threshold"
    )
    if explanation is not None:
        say(explanation)
    if output is not None:
        say(f"wrote {output}")


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
