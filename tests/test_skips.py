"""What is skipped is said in one line, and in CI it fails unless it may be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_passes():
    pass

def test_browser():
    pytest.skip("browser tests: install chromium")

def test_another(shared):
    pass

def test_triton():
    pytest.importorskip("no_such_package", reason="tests of Triton: this PyTorch comes without it")
"""


@pytest.fixture
def suite(tmp_path):
    """Run a suite with this repository's conftest, beside real data or not."""
    place = tmp_path / "repo" / "tests"
    place.mkdir(parents=True)
    (place / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (place / "test_it.py").write_text(TESTS)
    (place / "test_module.py").write_text(
        "import pytest\npytest.importorskip('none', reason='tests of Nothing: install it')\n"
    )

    def run(workers=0, **environment):
        ours = {k: v for k, v in os.environ.items() if k not in ("CI", "OODLINE_SHARED") and "PYTEST" not in k}
        ours["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # of what is installed, only xdist matters here
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "xdist",
            "-n",
            str(workers),
            "--continue-on-collection-errors",
            "--import-mode=importlib",
            str(place),
        ]
        found = subprocess.run(
            command, cwd=place, env={**ours, **environment}, capture_output=True, text=True, timeout=600, check=False
        )
        return found.returncode, found.stdout

    return run


def test_a_skipped_test_fails_in_ci_unless_it_may_be_skipped(suite, tmp_path):
    code, said = suite(workers=1)
    assert code == 0
    [line] = [line for line in said.splitlines() if line.startswith("skipped: ")]
    for part in (
        "1 browser tests (install chromium)",
        "1 tests of Nothing (install it)",
        "1 tests of Triton (this PyTorch comes without it)",
        f"1 real-data tests (no data and no golden in {tmp_path / 'shared'}; point OODLINE_SHARED at the directory)",
    ):
        assert part in line
    code, said = suite(CI="true")
    assert code == 1
    assert "It was skipped, and in CI it must run: browser tests: install chromium" in said
    assert "It was skipped, and in CI it must run: tests of Nothing: install it" in said
    assert "must run: real-data" not in said
    assert "must run: tests of Triton" not in said
    (tmp_path / "shared").mkdir()  # there, but not whole
    assert "it must run: real-data tests: no data" in suite(CI="true")[1]
