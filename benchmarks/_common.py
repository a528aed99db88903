"""What the benchmarks share: where the examples lie, and the CIFAR networks as loaded models."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from oodline.model.zoo import LoadedModel, load_model

ROOT = Path(__file__).resolve().parents[1]
CIFAR_MODELS = ROOT / "examples" / "cifar_models.py"


def load_cifar(checkpoints: Path, network: str, classes: int = 10) -> LoadedModel:
    """A network of `examples/cifar_models.py` with its trained weights."""
    return load_model(
        f"python:{CIFAR_MODELS}:{network},num_classes={classes}", checkpoints / f"{network}_cifar{classes}.safetensors"
    )


def load_example(name: str) -> ModuleType:
    """A file of `examples/` as a module; it lies in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
