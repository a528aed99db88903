"""What every test shares: shapes checked at run time, real data, a browser, seeds and threads; what was skipped."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator
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


def decorate_where_shapes_are(*, typechecker: Any, jaxtyped: Callable[..., Any] = jaxtyping.jaxtyped) -> Any:
    """What the hook decorates functions and dataclasses with: nothing where no annotation speaks of a shape."""

    def decorate(thing: Any) -> Any:
        shapes = any("[Tensor, " in str(annotation) for annotation in getattr(thing, "__annotations__", {}).values())
        return jaxtyped(thing, typechecker=typechecker) if inspect.isclass(thing) or shapes else thing

    return decorate


# Before anything imports oodline: what is imported already stays unchecked (test_shapes.py asserts that it is not).
jaxtyping.jaxtyped = decorate_where_shapes_are
jaxtyping.install_import_hook("oodline", f"{__name__}.check_shapes")


def pytest_configure(config: pytest.Config) -> None:
    # toy networks and a few random samples are rarely what a method supposes; test_assumptions.py asks for the warnings
    config.addinivalue_line("filterwarnings", "ignore::oodline.errors.AssumptionWarning")


def pytest_make_parametrize_id(val: object) -> str | None:
    # a file in a folder of this process would give every worker other names of tests
    return re.sub(r"words=.*/", "words=", val) if isinstance(val, str) and "words=" in val else None


# OpenVINO else reports to its makers that it was imported; without this package it does not
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

SHARED = Path(os.environ.get("OODLINE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory of the real data: `data` and `golden`; see its DATA.md."""
    absent = [name for name in ("data", "golden") if not (SHARED / name).is_dir()]
    if absent:
        pytest.skip(f"real-data tests: no {' and no '.join(absent)} in {SHARED}; point OODLINE_SHARED at the directory")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    # two workers have two cores: a second thread of each would wait for the other worker, longer than it computes
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_own_detector_is_left() -> Generator[None]:
    from oodline.detectors.registry import _REGISTERED

    before = dict(_REGISTERED)
    _REGISTERED.clear()
    yield
    _REGISTERED.clear()
    _REGISTERED.update(before)


@pytest.fixture(autouse=True)
def _no_temporary_file_is_left() -> Generator[None]:
    from oodline._util import temporary

    before = set(temporary._claims)
    yield
    assert set(temporary._claims) <= before, "a file or folder that grows was neither committed nor discarded"


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["quic", "background-networking", "component-update", "sync"]
"""What a browser would ask the network for by itself."""


@pytest.fixture(scope="module")
def browser():
    """Chromium as it is installed, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="browser tests: pip install 'oodline[dev]'")
    if CHROMIUM is None:
        pytest.skip("browser tests: install chromium, such as by `apt-get install chromium`")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{x}" for x in QUIET)]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
"""Whether a test that is skipped fails, unless it may be."""

MAY_BE_SKIPPED = ["tests of Triton", "reads /proc", "pyarrow has no", "tests of authors' code"]
"""How reasons begin that hold everywhere: something does not exist for this machine, and cannot be installed."""
if not SHARED.exists() and "OODLINE_SHARED" not in os.environ:
    MAY_BE_SKIPPED.append("real-data tests")
if sys.version_info >= (3, 14):  # for which there is no Ray yet
    MAY_BE_SKIPPED.append("tests of Ray")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Why it was skipped; None where it was not. Begins with what was skipped, then a colon and how to get it."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _fail_where_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = _reason(report)
    if IN_CI and reason is not None and not reason.startswith(tuple(MAY_BE_SKIPPED)):
        report.outcome = "failed"
        report.longrepr = f"It was skipped, and in CI it must run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_where_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_where_skipped(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was skipped, and how to get it."""
    reasons = Counter(filter(None, map(_reason, terminalreporter.stats.get("skipped", ()))))
    if reasons:
        split = {reason.partition(": "): count for reason, count in reasons.items()}
        each = [f"{count} {what} ({how})" if how else f"{count} ({what})" for (what, _, how), count in split.items()]
        terminalreporter.write_line(f"skipped: {', '.join(each)}")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny classifier of texts, `model`, and `train`, `val` and `ood.csv`; only to be read."""
    from oodline.testing import toy_texts

    return toy_texts(tmp_path_factory.mktemp("texts")).parent
