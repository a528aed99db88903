"""What the tests of engines share; the scripts beside them run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from oodline.cli import main

HERE = Path(__file__).parent

collect_ignore = ["cluster.py", "problem.py", "rank.py"]

TOLERANCES = {"moments": 1e-12, "covariance": 1e-12, "line": 1e-6, "mahalanobis": 1e-6, "scores": 1e-6}
"""Relative and absolute, by kind; all others, the reservoir among them, are equal to the last bit."""


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Path:
    """A folder with what one process gives."""
    folder = tmp_path_factory.mktemp("alone")
    # another number of threads may round features in another way
    subprocess.run([sys.executable, HERE / "rank.py", folder], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    return folder


@pytest.fixture(scope="session")
def assert_same() -> Callable[[dict[str, Tensor], Path], None]:
    """What an engine gave is what is in the file."""

    def _assert_same(found: dict[str, Tensor], path: Path) -> None:
        expected = load_file(path)
        assert set(found) == set(expected)
        for key, value in expected.items():
            tolerance = TOLERANCES.get(key.split(".")[0], 0)
            torch.testing.assert_close(
                found[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}"
            )

    return _assert_same


MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    model.preprocessing = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
    return model
"""


@pytest.fixture
def one_process() -> Callable[..., None]:
    """Runs a command in this process and checks the code it exits with."""

    def _one_process(*arguments: str, code: int = 0) -> None:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == code

    return _one_process


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with a model and 60 images of three classes, the last but one of them truncated."""
    random = np.random.default_rng(0)
    for i in range(60):
        pixels = random.integers(0, 60, (10, 10, 3))
        pixels[..., i // 20] += 150
        path = tmp_path / "images" / "abc"[i // 20] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype("uint8")).save(path)
    broken = tmp_path / "images" / "c" / "58.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (tmp_path / "models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path
