"""The checkpoint of a fine-tuned classifier: its weights, and in the metadata by which recipe and with which head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from oodline._util.checked import checked
from oodline._util.files import write_atomically
from oodline._util.ranges import LeftToIt
from oodline.errors import ModelError
from oodline.model.weights import load_weights
from oodline.model.wrappers import unwrapped
from oodline.training.abet_head import AbeTHead
from oodline.training.ascood_head import ASCOODHead
from oodline.training.head import replace_head

HEADS: dict[str, type[AbeTHead] | type[ASCOODHead]] = {kind.__name__: kind for kind in (AbeTHead, ASCOODHead)}
"""What a file may name as its head; the name of no other code is followed."""


def save_checkpoint(model: nn.Module, path: str | Path, metadata: dict[str, str]) -> Path:
    """Write all weights of a model as safetensors, with its head and what is given in the metadata."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    heads = [name for name, module in model.named_modules() if type(module) in HEADS.values()]
    if heads:
        kind = type(model.get_submodule(heads[0])).__name__
        metadata = {**metadata, "head": kind, "head_name": heads[0]}
    return write_atomically(path, lambda file: file.write(save(state, metadata)))


@checked
def load_checkpoint(model: Annotated[nn.Module, LeftToIt()], path: str | Path) -> nn.Module:
    """Load a checkpoint of `finetune` into a network as the one that was fine-tuned; with the head of the recipe.

    Parameters
    ----------
    model : nn.Module
        Built as the one that was fine-tuned; it is changed, and returned in evaluation mode.
    path : str or Path
        A `.safetensors` file that `finetune` wrote.

    Raises
    ------
    ModelError
        The file is missing or damaged, names another head than oodline's, or does not fit the model.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline.testing import toy_network
    >>> with TemporaryDirectory() as folder:
    ...     trained = toy_network()
    ...     _ = replace_head(trained, ASCOODHead)
    ...     _ = save_checkpoint(trained, f"{folder}/a.safetensors", {})
    ...     type(load_checkpoint(toy_network(), f"{folder}/a.safetensors")[-1]).__name__
    'ASCOODHead'
    """
    inner = unwrapped(model)
    metadata = _metadata(Path(path))
    if kind := metadata.get("head"):
        if kind not in HEADS:
            raise ModelError(f"{path} names the head {kind[:80]!r}; oodline has {', '.join(HEADS)}.")
        name = metadata.get("head_name", "")
        modules = dict(inner.named_modules())
        if name not in modules:
            raise ModelError(f"{path} has its head at {name[:80]!r}, and {type(inner).__name__} has no such module.")
        if type(modules[name]) is not HEADS[kind]:
            replace_head(inner, HEADS[kind], name)
    load_weights(inner, path)
    return inner.eval()


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file, or is truncated: {error}. Copy it again.") from error
