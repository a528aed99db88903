"""What every test shares: shapes checked at run time, the real data, seeds and threads."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jaxtyping
import pytest
import torch
from beartype import beartype


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let beartype check the annotations that speak of shapes, and those only.

    Checked in full, a wrong setting would end in beartype's error before oodline's own could be tested, an int given
    for a float would be refused, and `Self` cannot be resolved on a method that is decorated by itself.
    """
    if not any(map(_has_shape, function.__annotations__.values())):
        return function
    function.__annotations__ = {n: a if _has_shape(a) else Any for n, a in function.__annotations__.items()}
    return beartype(function)


def _has_shape(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(_has_shape(part) for part in get_args(annotation))


# Before anything imports oodline: what is imported already stays unchecked (test_shapes.py asserts that it is not).
jaxtyping.install_import_hook("oodline", f"{__name__}.check_shapes")

SHARED = Path(os.environ.get("OODLINE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory of the real data: `data` and `golden`; see its DATA.md."""
    absent = [name for name in ("data", "golden") if not (SHARED / name).is_dir()]
    if absent:
        pytest.skip(f"real data: no {' and no '.join(absent)} in {SHARED}; point OODLINE_SHARED at the directory")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    # more threads than cores make small tensors slower, not faster
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["quic", "background-networking", "component-update", "sync"]
"""What a browser would ask the network for by itself."""


@pytest.fixture(scope="module")
def browser():
    """Chromium as it is installed, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="a browser test: the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("a browser test: no chromium on this machine")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{x}" for x in QUIET)]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()
