"""`oodline export`: a fitted file and its classifier as one graph for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from oodline._util.files import check_writable
from oodline.cli.checks import check_data, check_guard, check_model, check_reading, check_suffix, load_detectors
from oodline.cli.options import (
    DataOptions,
    DetectorsFrom,
    Json,
    LoadedClassifier,
    ModelOptions,
    load_classifier,
    open_loader,
    print_json,
    show_warnings,
)
from oodline.errors import SettingError

if TYPE_CHECKING:
    from oodline.data.batch import Inputs

_MODEL, _DATA = ModelOptions(), DataOptions()


def export(
    guard: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    detector: Annotated[str | None, Parameter(name=["--detector", "-d"])] = None,
    data: str | None = None,
    preprocess_inside: Literal["uint8", "float"] | None = None,
    triton: str | None = None,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Write classifier, detector and threshold as one graph: logits, label, score, p_value, is_ood.

    The graph takes batches of any size. It is run beside the guard before the file is written, and the largest
    differences are printed.

    Parameters
    ----------
    guard
        A calibrated file by `oodline fit` or `Guard.save`.
    output
        The file to write, .onnx or .pt2 (torch.export); with --triton, the folder of the model repository.
    detector
        Which of several detectors. If omitted, the first.
    data
        Images to compare on. If omitted, noise.
    preprocess_inside
        Let the graph take pixels, uint8 or float in [0, 1], and normalise them itself. Images must still be resized
        and cropped before.
    triton
        Write a model of this name for the Triton Inference Server.
    json
        Print one JSON document on standard output, and nothing else there.
    """
    if triton is None:
        check_suffix("--output", output, (".onnx", ".pt2"))
        check_writable(output)
    check_reading(reading)
    check_guard(guard)
    check_model(model, needed=False)
    check_data(data)
    load_detectors(detectors_from)

    from oodline.data.opening import is_tensors
    from oodline.guard.artifact import read_artifact
    from oodline.guard.export import export_onnx, export_program, export_triton
    from oodline.guard.guard import Guard

    show_warnings()
    artifact = read_artifact(guard)
    loaded = load_classifier(model, artifact, data)
    judge = Guard.load(guard, loaded.classifier, detector, allow_other_weights=model.allow_other_weights)
    judge.preprocessing = None if data is not None and is_tensors(data) else loaded.classifier.preprocessing
    inside = loaded.preprocessing if preprocess_inside else None
    images: Any = _examples(data, loaded, reading)
    if data is not None and is_tensors(data):
        if preprocess_inside:
            raise SettingError(f"--preprocess-inside is for images, and {data} holds tensors. Leave it out.")
    elif preprocess_inside:
        images = (255 * images).round().byte() if preprocess_inside == "uint8" else images
    else:
        images = loaded.preprocessing.normalise(images)
    if triton is not None:
        made = export_triton(judge, output, triton, images, preprocessing=inside, progress=True)
    else:
        write = export_onnx if output.suffix == ".onnx" else export_program
        made = write(judge, output, images, preprocessing=inside, progress=True)
    if json:
        print_json(
            {
                "output": str(made.path),
                "bytes": made.size,
                "detector": judge.detector.name,
                "inputs": made.inputs,
                "batch_sizes": made.batch_sizes,
                "differences": made.differences,
            }
        )
        return
    inputs = ", ".join(f"{name} {kind}" for name, kind in made.inputs.items())
    print(f"wrote {made.path} ({made.size / 1e6:.2f} MB): {inputs} -> {', '.join(made.differences)}")
    sizes = ", ".join(map(str, made.batch_sizes))
    gaps = ", ".join(f"{name} {gap:.2g}" for name, gap in made.differences.items())
    print(f"largest differences to the guard at batch sizes {sizes}: {gaps}")


def _examples(data: str | None, loaded: LoadedClassifier, reading: DataOptions) -> Inputs:
    """Tensors as they are, or pixels in [0, 1] of the size that the classifier reads."""
    import torch

    if data is not None:
        return next(iter(open_loader(data, loaded, reading, pixels=True))).inputs
    size = loaded.preprocessing.input_size
    if size is None:
        raise SettingError(
            "the preprocessing of this classifier does not say how large an image is. Pass --data with some images."
        )
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, len(loaded.preprocessing.mode), *size, generator=generator)
