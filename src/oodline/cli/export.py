"""`oodline export`: write a guard file and its classifier as one graph for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
)
from oodline.cli.parameters import OUTPUT, FileDetector
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.errors import SettingError

if TYPE_CHECKING:
    from oodline.data.batch import Inputs

_MODEL, _DATA, _RUN = ModelOptions(), DataOptions(), RunOptions()


def export(
    guard: Path,
    *,
    output: Annotated[Path, OUTPUT],
    detector: FileDetector = None,
    data: str | None = None,
    preprocess_inside: Literal["uint8", "float"] | None = None,
    triton: str | None = None,
    model: ModelOptions = _MODEL,
    reading: DataOptions = _DATA,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Write classifier, detector and threshold as one graph: as ONNX, for OpenVINO, or for torch.export.

    The outputs are logits, label, score, p_value and is_ood, for batches of any size. Before the file is written, the
    graph's outputs are compared with the guard's, and the largest differences are printed.

    Parameters
    ----------
    guard
        A guard file with a threshold, written by `oodline fit --calibrate` or `Guard.save`.
    output
        The file to write: .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (torch.export). With --triton, the
        folder of the model repository.
    data
        Images for the comparison, in any form that `oodline score` accepts. If omitted, random noise.
    preprocess_inside
        Include normalisation in the graph: its input is pixels as uint8 in [0, 255], or as float in [0, 1]. Images must
        still be resized and cropped before. If omitted, the input is normalised images.
    triton
        Write a model repository for the Triton Inference Server, with the model under this name.
    json
        Print one JSON document on standard output and nothing else.
    """
    if triton is None:
        check_suffix("--output", output, (".onnx", ".pt2", ".xml"))
        check_writable(output)
    check_reading(reading)
    running.refuse_half("for a graph, which holds the network as it is")
    check_guard(guard)
    check_model(model, needed=False)
    check_data(data)
    load_detectors(detectors_from)

    from oodline.data.opening import is_tensors
    from oodline.guard.artifact import read_artifact
    from oodline.guard.export import export_onnx, export_program, export_triton
    from oodline.guard.guard import Guard
    from oodline.guard.openvino import export_openvino
    from oodline.preprocessing.preprocessing import Preprocessing

    running.show_warnings()
    artifact = read_artifact(guard)
    loaded = load_classifier(model, artifact, data, running=running)
    if not isinstance(loaded.preprocessing, Preprocessing):
        raise SettingError(
            f"{guard} is for texts, and `oodline export` writes graphs of images or tensors. Guard.export_onnx("
            "FILE, tokens) writes one of tokens."
        )
    loaded_guard = Guard.load(guard, loaded.classifier, detector, allow_other_weights=model.allow_other_weights)
    loaded_guard.preprocessing = None if data is not None and is_tensors(data) else loaded.classifier.preprocessing
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
        made = export_triton(loaded_guard, output, triton, images, preprocessing=inside, progress=running.progress)
    else:
        write = {".onnx": export_onnx, ".xml": export_openvino, ".pt2": export_program}[output.suffix]
        made = write(loaded_guard, output, images, preprocessing=inside, progress=running.progress)
    if json:
        print_json(
            {
                "output": str(made.path),
                "bytes": made.size,
                "detector": loaded_guard.detector.name,
                "inputs": made.inputs,
                "batch_sizes": made.batch_sizes,
                "differences": made.differences,
            }
        )
    if json or running.quiet:
        return
    inputs = ", ".join(f"{name} {kind}" for name, kind in made.inputs.items())
    say(f"wrote {made.path} ({made.size / 1e6:.2f} MB): {inputs} -> {', '.join(made.differences)}")
    sizes = ", ".join(map(str, made.batch_sizes))
    gaps = ", ".join(f"{name} {gap:.2g}" for name, gap in made.differences.items())
    say(f"largest differences to the guard at batch sizes {sizes}: {gaps}")


def _examples(data: str | None, loaded: LoadedClassifier, reading: DataOptions) -> Inputs:
    """The first batch of the data, or random images; images as pixels in [0, 1] at the classifier's input size."""
    import torch

    from oodline.preprocessing.preprocessing import Preprocessing

    if data is not None:
        return next(iter(open_loader(data, loaded, reading, pixels=True))).inputs
    prepared = loaded.preprocessing
    assert isinstance(prepared, Preprocessing)  # a guard of texts was refused before
    size = prepared.input_size
    if size is None:
        raise SettingError("the preprocessing of this classifier states no image size. Pass --data with some images.")
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, len(prepared.mode), *size, generator=generator)
