"""Write a guard as ONNX, `torch.export` program or Triton model repository, after comparing it with the guard.

The graph is run at several batch sizes and compared with the guard; one that does not agree is not written.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from oodline._util.files import check_writable, write_atomically
from oodline._util.progress import working
from oodline._version import __version__
from oodline.data.batch import Inputs
from oodline.errors import DataError, ExportError, InputError, SettingError, missing_extra
from oodline.guard.graph import Guarded, GuardGraph, spelled_out, trace
from oodline.guard.graph_check import BATCH_SIZES, rows_of, verify
from oodline.passes.fit import reads
from oodline.preprocessing.kinds import AnyPreprocessing
from oodline.preprocessing.preprocessing import Preprocessing

NAME = re.compile(r"[\w.-]+", re.ASCII)
"""What a model may be called in a Triton repository."""


@dataclass(frozen=True)
class Export:
    """What was written, and how far it is from the guard.

    Parameters
    ----------
    path : Path
        The file, or the folder of a Triton model.
    size : int
        Bytes of the graph.
    inputs : dict of str to str
        Name, type and shape of each input.
    batch_sizes : tuple of int
        At which it was run.
    differences : dict of str to float
        The largest for each output; for labels and verdicts, how many differ.

    Examples
    --------
    >>> Export(Path("a.onnx"), 10, {"inputs": "float32 (N, 4)"}, (1, 3), {"score": 1e-6}).differences["score"]
    1e-06
    """

    path: Path
    size: int
    inputs: dict[str, str]
    batch_sizes: tuple[int, ...]
    differences: dict[str, float]


def export_onnx(
    guard: Guarded,
    path: str | Path,
    example: Inputs,
    *,
    preprocessing: Preprocessing | None = None,
    progress: bool = False,
) -> Export:
    """Write one ONNX graph from inputs to `logits, label, score, p_value, is_ood`, for batches of any size.

    For a guard of pixels these are maps (N, H, W) at the head's resolution, logits (N, C, H, W), for inputs of the
    example's height and width, and `image_score`, `image_p_value` and `image_is_ood` say the verdict on each image.

    The first dimension of every input and output is called `batch`. The file's metadata (`metadata_props`) hold
    `preprocessing` (resize, crop, mean, std, channel order, interpolation and all else) and `class_names` as JSON, so
    that a consumer can prepare images and name classes; `oodline` holds the detector and the threshold too.

    Parameters
    ----------
    guard : Guard
        Calibrated.
    path : str or Path
        The file to write.
    example : Tensor (N, ...) or mapping of tensors
        Inputs as the graph will take them, by which it is traced and verified; their type and shape, but for the
        batch, become the graph's.
    preprocessing : Preprocessing, optional
        Put its normalisation inside: the example is then pixels, uint8 or in [0, 1], already resized and cropped. The
        resizing of images is not part of a graph, since no runtime repeats PIL's to the last bit.
    progress : bool
        Say on standard error what is being done.

    Raises
    ------
    ExportError
        The detector or the classifier cannot become a graph, or the graph does not agree with the guard.
    NotFittedError
        The guard is not calibrated.
    MissingExtraError
        onnx, onnxscript or onnxruntime is not installed.
    DataError
        The file cannot be written; nothing is left half-written.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> guard = ol.Guard(classifier, ol.Energy()).calibrate(loader)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_onnx(guard, f"{folder}/guard.onnx", loader[0][0]).inputs
    {'inputs': 'float32 (N, 4)'}
    """
    check_writable(path)
    content, found = verified_onnx(guard, example, preprocessing, progress)
    write_atomically(path, lambda file: file.write(content))
    return replace(found, path=Path(path))


def export_program(
    guard: Guarded,
    path: str | Path,
    example: Inputs,
    *,
    preprocessing: Preprocessing | None = None,
    progress: bool = False,
) -> Export:
    """Write the same graph as a `torch.export` program (.pt2), which `torch.export.load` reads; see `export_onnx`."""
    check_writable(path)
    graph, batch = prepare(guard, example, preprocessing)
    with working("tracing", shown=progress):
        program = trace(graph, batch)
    with working("verifying", shown=progress):
        differences = verify(graph, program.module(), batch)
    content = io.BytesIO()
    with _quiet():
        torch.export.save(program, content)
    write_atomically(path, lambda file: file.write(content.getbuffer()))
    return Export(Path(path), len(content.getbuffer()), _shapes(batch), BATCH_SIZES, differences)


def export_triton(
    guard: Guarded,
    folder: str | Path,
    name: str,
    example: Inputs,
    *,
    max_batch_size: int = 64,
    preprocessing: Preprocessing | None = None,
    progress: bool = False,
) -> Export:
    """Add a model to a Triton Inference Server repository: `NAME/config.pbtxt` and `NAME/1/model.onnx`.

    As `export_onnx`, and Triton gathers requests into batches of up to `max_batch_size`.

    Raises
    ------
    SettingError
        The name has other characters than letters, digits, ".", "_" and "-", or `max_batch_size` is less than 1.
    DataError
        There is a model of that name already, or the folder cannot be written; nothing is left half-written.
    """
    if not NAME.fullmatch(name):
        raise SettingError(f"`name` of a Triton model must be letters, digits, '.', '_' and '-'; got {name!r}.")
    if max_batch_size < 1:
        raise SettingError(f"`max_batch_size` must be at least 1; got {max_batch_size}.")
    home = Path(folder) / name
    if home.exists():
        raise DataError(f"could not write {home}: there is a model of that name already. Remove it, or choose another.")
    check_writable(home)
    content, checked_outputs = verified_onnx(guard, example, preprocessing, progress)
    config = triton_config(name, content, max_batch_size)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as temporary:
            model = Path(temporary) / name
            (model / "1").mkdir(parents=True)
            write_atomically(model / "1" / "model.onnx", lambda file: file.write(content))
            write_atomically(model / "config.pbtxt", lambda file: file.write(config.encode()))
            model.rename(home)
    except OSError as error:
        raise DataError(f"could not write {home}: {error.strerror or error}. Nothing was left behind.") from error
    return replace(checked_outputs, path=home)


def triton_config(name: str, content: bytes, max_batch_size: int) -> str:
    """The `config.pbtxt` of an ONNX graph whose inputs and outputs all begin with the batch."""
    session = _session(content)
    lines = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {max_batch_size}"]
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for tensor in tensors:
            sizes = ", ".join(str(n if isinstance(n, int) else -1) for n in tensor.shape[1:])
            # Triton has no tensor of one number per request but by reshaping one of a single entry
            dims = f"dims: [ {sizes} ]" if sizes else "dims: [ 1 ] reshape { shape: [ ] }"
            lines.append(f'{kind} [ {{ name: "{tensor.name}" data_type: {_TRITON[tensor.type]} {dims} }} ]')
    return "\n".join([*lines, "dynamic_batching { }", ""])


_TRITON = {
    f"tensor({name})": f"TYPE_{triton}"
    for name, triton in {
        "float": "FP32", "double": "FP64", "float16": "FP16", "bfloat16": "BF16", "bool": "BOOL",
        "uint8": "UINT8", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    }.items()
}  # fmt: skip


def verified_onnx(
    guard: Guarded, example: Inputs, preprocessing: Preprocessing | None, progress: bool
) -> tuple[bytes, Export]:
    """The ONNX graph that agrees with the guard, and its description without a path; see `export_onnx`."""
    try:
        import onnx
        import onnxruntime  # noqa: F401 - to verify
        import onnxscript  # noqa: F401 - for torch.onnx
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "onnx", "ONNX files") from error
    graph, batch = prepare(guard, example, preprocessing)
    names = list(batch) if isinstance(batch, Mapping) else ["pixels" if preprocessing else "inputs"]
    with working("tracing", shown=progress):
        program = spelled_out(trace(graph, batch))
    with working("converting to ONNX", shown=progress), _quiet():
        try:
            made = torch.onnx.export(
                program, (), dynamo=True, input_names=names, output_names=list(graph.outputs), verbose=False
            )
            assert made is not None
            model = made.model_proto
            _name_batch(model.graph)
            onnx.helper.set_model_props(model, _properties(guard, preprocessing))
            content: bytes = model.SerializeToString()
        except Exception as error:
            raise ExportError(
                f"torch.onnx cannot write this classifier: {reason_of(error)} A .pt2 file may still be written."
            ) from error
    with working("verifying", shown=progress):
        try:
            session = _session(content)

            def run(inputs: Inputs) -> list[Tensor]:
                values = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
                feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
                return [torch.from_numpy(output) for output in session.run(list(graph.outputs), feed)]

            differences = verify(graph, run, batch)
        except ExportError:
            raise
        except Exception as error:  # onnxruntime's errors share no base
            raise ExportError(f"onnxruntime cannot run this graph: {reason_of(error)}") from error
    return content, Export(Path(), len(content), _shapes(batch, names), BATCH_SIZES, differences)


def prepare(guard: Guarded, example: Inputs, preprocessing: Preprocessing | None) -> tuple[GuardGraph, Inputs]:
    """The guard as a module on the CPU, and the batch by which it is traced and verified."""
    graph = GuardGraph(_on_cpu(guard), preprocessing)
    tensors = example if isinstance(example, Mapping) else {"inputs": example}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            kind = "a scalar" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"`{name}` must be a tensor with a batch dimension; got {kind}.")
        if len(value) == 0:
            raise InputError(f"`{name}` must hold at least one example, to compare the graph with the guard; got none.")
    batch = rows_of(example, max(BATCH_SIZES))
    # a first pass of the ordinary kind, which checks the head, the shapes and the values
    plain = batch if preprocessing is None or isinstance(batch, Mapping) else preprocessing.normalise(batch)
    graph.classifier(plain, **reads([graph.detector]))
    return graph, batch


def _on_cpu(guard: Guarded) -> Guarded:
    classifier = guard.classifier
    if classifier.device.type == "cpu":
        return guard
    moved = copy.copy(classifier)
    moved.model = copy.deepcopy(classifier.model).cpu()
    return SimpleNamespace(
        classifier=moved,
        detector=copy.deepcopy(guard.detector).cpu(),
        calibration=guard.calibration,
        class_names=guard.class_names,
        preprocessing=guard.preprocessing,
    )


def _name_batch(graph: Any) -> None:
    """Call the first dimension of all inputs and outputs `batch`, wherever the exporter's own name for it stands."""
    names = set()
    for tensor in (*graph.input, *graph.output):
        first = tensor.type.tensor_type.shape.dim[0]
        names.add(first.dim_param)
        first.dim_param = "batch"
    for tensor in (*graph.input, *graph.output, *graph.value_info):
        for size in tensor.type.tensor_type.shape.dim:
            if size.dim_param and size.dim_param in names:
                size.dim_param = "batch"


def _properties(guard: Guarded, preprocessing: Preprocessing | None) -> dict[str, str]:
    """The file's metadata: what a consumer needs to prepare images and to name classes, each entry as JSON."""
    about = _about(guard, preprocessing)
    found = {"oodline": about, "class_names": about["class_names"]}
    if "task" in about:
        found["task"] = about["task"]
    if about["preprocessing"] is not None:
        found["preprocessing"] = about["preprocessing"]
    return {key: json.dumps(value) for key, value in found.items()}


def _described(preprocessing: AnyPreprocessing, *, inside: bool) -> dict[str, Any]:
    """A preprocessing in full, with what a reader who does not know oodline would ask."""
    if not isinstance(preprocessing, Preprocessing):
        return preprocessing.model_dump(mode="json")
    size = preprocessing.input_size
    return {
        **preprocessing.model_dump(mode="json"),
        "geometry": [step.model_dump(mode="json", exclude_none=True) for step in preprocessing.geometry],
        "channel_order": preprocessing.mode,
        "input_size": None if size is None else list(size),
        "layout": "NCHW",
        "input": "pixels, uint8 or in [0, 1]" if inside else "(pixels in [0, 1] - mean) / std",
    }


def _shapes(inputs: Inputs, names: Sequence[str] = ("inputs",)) -> dict[str, str]:
    tensors = inputs if isinstance(inputs, Mapping) else {names[0]: inputs}
    return {
        name: f"{str(value.dtype).removeprefix('torch.')} ({', '.join(['N', *map(str, value.shape[1:])])})"
        for name, value in tensors.items()
    }


def _about(guard: Guarded, preprocessing: Preprocessing | None) -> dict[str, Any]:
    assert guard.calibration is not None
    known = preprocessing or guard.preprocessing
    return {
        "oodline_version": __version__,
        "detector": guard.detector.name,
        "threshold": guard.calibration.threshold_of(torch.arange(guard.classifier.head.num_classes)).tolist(),
        "class_names": guard.class_names,
        **({} if guard.classifier.task == "multiclass" else {"task": guard.classifier.task}),
        "preprocessing": None if known is None else _described(known, inside=preprocessing is not None),
        "preprocessing_inside": None if preprocessing is None else preprocessing.model_dump(mode="json"),
    }


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of constants that it moves
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    # the exporters speak to their own developers, of steps and of deprecations within PyTorch
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """The first line of the error at the root of an exporter's or a runtime's."""
    # torch wraps the fact in reports about reports
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
