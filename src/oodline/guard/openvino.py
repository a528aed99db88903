"""Write a guard for OpenVINO, by way of the ONNX graph that was verified, and verify it once more."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodline._util.files import GrowingFile, check_writable
from oodline._util.progress import working
from oodline.data.batch import Inputs
from oodline.errors import DataError, ExportError, OodlineError, SettingError, missing_extra
from oodline.guard.export import Export, prepare, reason_of, verified_onnx
from oodline.guard.graph import Guarded
from oodline.guard.graph_check import SINGLE, verify
from oodline.preprocessing.preprocessing import Preprocessing


def export_openvino(
    guard: Guarded,
    path: str | Path,
    example: Inputs,
    *,
    preprocessing: Preprocessing | None = None,
    progress: bool = False,
) -> Export:
    """Write the graph of `export_onnx` as `PATH.xml` and `PATH.bin`, which OpenVINO reads.

    Inputs, outputs, parameters and the verification are those of `export_onnx`; it is OpenVINO that is compared with
    the guard, on the CPU. It computes in single precision whatever a graph says, so p-values are rounded to that.

    Parameters
    ----------
    guard, example, preprocessing, progress
        As in `export_onnx`.
    path : str or Path
        The file to write, ending in .xml; its weights go to the file of the same name that ends in .bin.

    Raises
    ------
    SettingError
        The path does not end in .xml.
    MissingExtraError
        openvino, onnx, onnxscript or onnxruntime is not installed.
    ExportError, NotFittedError, DataError
        As `export_onnx`; neither file is left half-written. A .bin that stands there without its .xml is not
        replaced.
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise SettingError(f"`path` must end in .xml; got {str(path)!r}. The weights go to the .bin beside it.")
    check_writable(path)
    check_writable(path.with_suffix(".bin"))
    if path.with_suffix(".bin").exists() and not path.exists():
        raise DataError(
            f"could not write {path.with_suffix('.bin')}: it is there without its {path.name}, so it may be another "
            "model's, and would be lost. Name another file."
        )
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("openvino", "openvino", "OpenVINO files") from error
    content, found = verified_onnx(guard, example, preprocessing, progress)
    graph, batch = prepare(guard, example, preprocessing)
    with tempfile.TemporaryDirectory() as folder, working("converting to OpenVINO", shown=progress):
        source = Path(folder) / "guard.onnx"
        source.write_bytes(content)
        try:
            model = openvino.convert_model(source)
            openvino.save_model(model, Path(folder) / "guard.xml", compress_to_fp16=False)
            run = _runner(Path(folder) / "guard.xml", list(found.inputs), graph.outputs)
            differences = verify(graph, run, batch, rounding=SINGLE)
        except OodlineError:
            raise
        except Exception as error:  # OpenVINO's errors are RuntimeError, or of its bindings
            raise ExportError(
                f"OpenVINO cannot run this graph: {reason_of(error)} ONNX may still be written."
            ) from error
        parts = [((Path(folder) / f"guard{end}").read_bytes(), path.with_suffix(end)) for end in _ENDS]
    _write_both(parts)
    return replace(found, path=path, size=sum(len(bytes_) for bytes_, _ in parts), differences=differences)


_ENDS = (".bin", ".xml")
"""The weights first: an .xml without its .bin could not be read."""


def _write_both(parts: Sequence[tuple[bytes, Path]]) -> None:
    files = []
    try:
        for content, target in parts:
            files.append(GrowingFile(target))
            files[-1].write(lambda out, content=content: out.write(content))  # type: ignore[misc]
        for file in files:
            file.commit()
    finally:
        for file in files:
            file.discard()


def _runner(path: Path, names: list[str], outputs: Sequence[str]) -> Any:
    import openvino

    # single precision, as the guard computes; some CPUs would else use bfloat16
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Inputs) -> list[Tensor]:
        values = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
        results = compiled({name: value.numpy() for name, value in zip(names, values, strict=True)})
        return [torch.from_numpy(results[name].copy()) for name in outputs]

    return run
