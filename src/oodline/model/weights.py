"""Load weights from a file into a model: safetensors, or PyTorch with `weights_only`. Neither runs code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from oodline.errors import ModelError


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights into a model; all of its tensors, and no others, must be there.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    path : str or Path
        `.safetensors`, or a PyTorch file of tensors. A `state_dict`, `model` or `model_state_dict` entry is
        unpacked, and a `module.` or `model.` prefix removed where the names then fit.

    Raises
    ------
    ModelError
        The file is missing, damaged or would run code, or its tensors do not fit; the message lists them.
    """
    path = Path(path)
    state = _read_weights(path)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = dict(state[key])
    strange = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if strange:
        raise ModelError(f"{path} holds no state_dict: its entry {strange[0]!r} is not a tensor with a name.")
    expected = model.state_dict()
    for prefix in ("module.", "model."):
        if state.keys() != expected.keys() and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    missing = [key for key in expected if key not in state]
    # counters of batches seen do not take part in inference, and files that were converted often lack them
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key}: file {tuple(value.shape)}, model {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise ModelError(
            f"the weights in {path} do not fit {type(model).__name__}: {'; '.join(problems)}. Check the model "
            "reference and its options, such as num_classes."
        )
    model.load_state_dict(state, strict=False)


def _read_weights(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"there is no weight file {path}.")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file, or is truncated: {error}. Copy it again.") from error
    except Exception as error:  # on a damaged pickle torch ends in nearly any
        no_pickle = isinstance(error, pickle.UnpicklingError)
        if no_pickle and "GLOBAL" in str(error):
            raise ModelError(
                f"{path} holds more than tensors, and loading it could run code, so it was not loaded. Save its "
                "state_dict as safetensors."
            ) from error
        # what torch says of a broken pickle ends in the advice to run it
        known = isinstance(error, RuntimeError | OSError) and not no_pickle
        reason = str(error).splitlines()[0] if known and str(error) else "no pickle of tensors"
        raise ModelError(f"{path} is not a PyTorch weight file, or is truncated: {reason}. Copy it again.") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a dict of tensors.")
    return dict(content)
