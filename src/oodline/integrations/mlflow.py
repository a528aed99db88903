"""A flavour of MLflow: log and load a guard, and serve its ONNX graph as a `python_function`; nothing is pickled."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from oodline._util.folders import write_folder
from oodline._version import __version__
from oodline.data.batch import Inputs
from oodline.errors import ArtifactError, DataError, InputError, missing_extra
from oodline.guard.graph import OUTPUTS
from oodline.guard.guard import Guard
from oodline.model.classifier import Classifier

try:
    import mlflow
    from mlflow.models import Model
except ImportError as error:
    raise missing_extra("mlflow", "mlflow", "models of MLflow") from error

__all__ = ["load_guard", "log_guard", "save_model"]

FLAVOR_NAME = "oodline"
FILE, GRAPH = "guard.safetensors", "guard.onnx"
"""The guard, and its graph, in the folder of a model."""


def log_guard(
    guard: Guard,
    name: str = "guard",
    *,
    example: Inputs | None = None,
    registered_model_name: str | None = None,
    **options: Any,
) -> Any:
    """Log a guard as a model of the active run, which is made where there is none.

    Parameters
    ----------
    guard : Guard
        Its classifier is not in the file; with `example` it is in the graph.
    name : str
        Of the model.
    example : Tensor (N, ...) or mapping of tensors, optional
        Inputs, by which the guard is exported as ONNX and verified (`Guard.export_onnx`; the extra `onnx`):
        `mlflow.pyfunc.load_model` and `mlflow models serve` then take it. Without it, only `load_guard` does.
    registered_model_name : str, optional
        To register it by.
    **options
        Those of `mlflow.models.Model.log`, such as `metadata`.

    Returns
    -------
    mlflow.models.model.ModelInfo
        `model_uri` is what `load_guard` takes.

    Raises
    ------
    ArtifactError, ExportError, NotFittedError
        As `Guard.save` and `Guard.export_onnx`.
    """
    return Model.log(
        artifact_path=None,
        name=name,
        flavor=sys.modules[__name__],
        registered_model_name=registered_model_name,
        guard=guard,
        example=example,
        **options,
    )


def save_model(guard: Guard, path: str | Path, *, example: Inputs | None = None, mlflow_model: Any = None) -> None:
    """Write the folder of an MLflow model: the guard, its graph where there is an `example`, and `MLmodel`.

    Raises
    ------
    DataError
        Something else is there, such as a model of another flavour; a model that was saved by this is replaced.
    ArtifactError, ExportError, NotFittedError
        As `Guard.save` and `Guard.export_onnx`.
    """
    _check_replaceable(Path(path))
    model = Model() if mlflow_model is None else mlflow_model
    model.add_flavor(FLAVOR_NAME, oodline_version=__version__, data=FILE, detector=guard.detector.name)
    if example is not None:
        mlflow.pyfunc.add_to_model(model, loader_module=__name__, data=GRAPH, python_env="python_env.yaml")

    def write(folder: Path) -> None:
        guard.save(folder / FILE)
        extra = "mlflow"
        if example is not None:
            guard.export_onnx(folder / GRAPH, example)
            extra = "mlflow,onnx"
        (folder / "requirements.txt").write_text(f"oodline[{extra}]=={__version__}\n")
        version = ".".join(map(str, sys.version_info[:3]))
        (folder / "python_env.yaml").write_text(f"python: {version}\ndependencies:\n- -r requirements.txt\n")
        model.save(str(folder / "MLmodel"))

    write_folder(path, write, marker="MLmodel")


def _check_replaceable(folder: Path) -> None:
    if not (folder / "MLmodel").is_file():
        return  # `write_folder` refuses a folder with other things
    try:
        flavors = list(Model.load(str(folder)).flavors)
    except Exception:  # of YAML, or of MLflow: whatever it is, it is not ours
        flavors = []
    if FLAVOR_NAME not in flavors:
        raise DataError(
            f"could not write {folder}: it holds a model of {', '.join(flavors) or 'an unknown flavour'}, which would "
            "be lost. Name a new folder."
        )


def load_guard(model_uri: str, classifier: Classifier, detector: str | None = None, **options: Any) -> Guard:
    """Read a guard that `log_guard` logged, for the classifier it was fitted on.

    Parameters
    ----------
    model_uri : str
        `runs:/RUN/NAME`, `models:/ID`, a folder, or what else MLflow takes.
    classifier, detector, **options
        As in `Guard.load`.

    Raises
    ------
    ArtifactError
        There is no guard of oodline there.
    MismatchError
        As `Guard.load`.
    """
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=str(model_uri)))
    except Exception as error:  # MLflow's, the store's or the network's
        raise ArtifactError(f"{model_uri} cannot be read: {str(error).splitlines()[0]} Check the address.") from error
    if not (folder / FILE).is_file():
        raise ArtifactError(f"{model_uri} is not a model that log_guard logged: it has no {FILE}.")
    return Guard.load(folder / FILE, classifier, detector, **options)


class GraphModel:
    """A guard's ONNX graph, as `mlflow.pyfunc` calls it: from inputs to logits, label, score, p-value and verdict.

    Parameters
    ----------
    path : str or Path
        The file by `Guard.export_onnx`.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("onnxruntime", "onnx", "graphs of guards") from error
        self._session = onnxruntime.InferenceSession(path)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The five outputs by name, each of N rows.

        Parameters
        ----------
        model_input : array (N, ...), Tensor, DataFrame of N rows, or mapping of arrays
            As the classifier takes them; numbers become those of the graph, such as float32.
        params : mapping, optional
            Not read.

        Raises
        ------
        InputError
            The mapping lacks an input of the graph, or an input has another shape than the graph takes or no numbers.
        """
        wanted = {tensor.name: tensor for tensor in self._session.get_inputs()}
        named = model_input if isinstance(model_input, Mapping) else dict.fromkeys(wanted, model_input)
        if missing := [name for name in wanted if name not in named]:
            raise InputError(f"the input must have {', '.join(wanted)}; got no {', '.join(missing)}.")
        feed = {name: _as_array(named[name], tensor) for name, tensor in wanted.items()}
        return dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), feed), strict=True))


_DTYPES = {
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def _as_array(value: Any, wanted: Any) -> Any:
    """An array of the kind and shape of an input of the graph, whose free dimensions are names rather than numbers."""
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        array = array.astype(_DTYPES.get(wanted.type, np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"`{wanted.name}` must be numbers; got {type(value).__name__}: {error}.") from error
    fixed = [size if isinstance(size, int) else None for size in wanted.shape]
    if len(fixed) != array.ndim or any(size not in (None, n) for size, n in zip(fixed, array.shape, strict=True)):
        shape = ", ".join(["N", *("any" if size is None else str(size) for size in fixed[1:])])
        raise InputError(f"`{wanted.name}` must have the shape ({shape}); got {array.shape}.")
    return array


def _load_pyfunc(path: str) -> GraphModel:
    """What `mlflow.pyfunc.load_model` calls with the path of the graph."""
    return GraphModel(path)
