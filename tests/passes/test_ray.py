"""Ray workers give what one process gives, also where one is lost, and a run goes on where it was interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file

from oodline.errors import SettingError

pytest.importorskip("ray", reason="tests of Ray: pip install 'oodline[ray]'")
HERE = Path(__file__).parent


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    quiet = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True, cwd=folder)


@pytest.mark.long
def test_workers_give_what_one_process_gives(tmp_path, alone, assert_same):
    done = run(tmp_path, HERE / "cluster.py", "share", tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(load_file(tmp_path / "two workers.safetensors"), alone / "run.0.safetensors")


@pytest.mark.long
def test_the_block_of_a_worker_that_died_is_read_again(tmp_path, alone, assert_same):
    done = run(tmp_path, HERE / "cluster.py", "lose", tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(load_file(tmp_path / "one killed.safetensors"), alone / "run.0.safetensors")
    first, second = (tmp_path / "reads").read_text().splitlines()[:2]
    assert first != second


@pytest.mark.long
def test_an_interrupted_pass_goes_on_where_it_was(tmp_path, alone, assert_same):
    done = run(tmp_path, HERE / "cluster.py", "stop", tmp_path)
    assert done.returncode == 0, done.stderr
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert errors["stopped"] == "DataError: image 161 is not there yet."
    assert "holds what another run had done when it was interrupted" in errors["another run"]
    assert "read by position, and this loader has none" in errors["list"]
    assert_same(load_file(tmp_path / "resumed.safetensors"), alone / "run.0.safetensors")
    read = {int(path.name[5:]) for path in tmp_path.glob("read-*")}
    assert read >= set(range(160, 300))


READ = ["--model", "python:models.py:build", "--batch-size", "8", "--engine", "ray,workers=2,block=20"]


@pytest.mark.filterwarnings("always::oodline.scoring.seen_data.SeenDataWarning")
@pytest.mark.long
def test_the_command_line_by_ray_goes_on_where_an_unreadable_image_ended_it(place, one_process):
    local = READ[:4]
    fit = ["fit", "--data", "images", "-d", "line,clip=0.5", "-d", "knn,k=3", "--on-error", "skip"]
    one_process(*fit, *local, "-o", "one.safetensors", "--calibrate", "images")
    done = run(place, "-m", "oodline", *fit, *READ, "-o", "two.safetensors", "--calibrate", "images")
    assert done.returncode == 0, done.stderr
    assert "on 59 images" in done.stdout
    assert "1 unreadable images of data were skipped: c/58.png" in done.stderr
    torch.testing.assert_close(load_file("two.safetensors"), load_file("one.safetensors"), rtol=1e-6, atol=1e-6)
    assert not list(place.glob("*unfinished*"))

    score = ["-m", "oodline", "score", "one.safetensors", "images", *READ, "-o", "rows"]
    stopped = run(place, *score)
    assert stopped.returncode == 1
    assert "error: image c/58.png (number 58) cannot be read" in stopped.stderr
    parts = {path.name: path.stat().st_mtime_ns for path in sorted(Path("rows").glob("*.parquet"))}
    assert list(parts) == [f"part-{first:012d}.parquet" for first in (0, 16, 32)]
    shutil.copy("images/c/57.png", "images/c/58.png")
    resumed = run(place, *score)
    assert resumed.returncode == 0, resumed.stderr
    assert "scored 60 images" in resumed.stdout
    assert {name: Path("rows", name).stat().st_mtime_ns for name in parts} == parts
    assert len(list(Path("rows").iterdir())) == 4
    one_process("score", "one.safetensors", "images", *local, "-o", "one.parquet")
    assert parquet.read_table("rows").to_pylist() == parquet.read_table("one.parquet").to_pylist()
    again = run(place, *score)
    assert "holds Parquet files, which would mix with the new ones" in again.stderr


OWN = """
import oodline as ol

class Largest(ol.Detector):
    name, needs = "largest", ol.Needs.FEATURES

    def score(self, activations):
        return activations.features.amax(1)
"""


@pytest.mark.long
def test_an_own_detector_of_a_file_goes_along(place, one_process):
    Path("own.py").write_text(OWN)
    shutil.copy("images/c/57.png", "images/c/58.png")
    own = ["--detectors-from", "own.py"]
    one_process("fit", "--data", "images", "-d", "largest", *READ[:4], *own, "-o", "one.safetensors")
    done = run(place, "-m", "oodline", "score", "one.safetensors", "images", *READ, *own, "-o", "rows")
    assert done.returncode == 0, done.stderr
    one_process("score", "one.safetensors", "images", *READ[:4], *own, "-o", "one.parquet")
    assert parquet.read_table("rows").to_pylist() == parquet.read_table("one.parquet").to_pylist()


def test_settings_are_checked(place, one_process, capsys):
    from oodline.passes.ray import Ray

    for setting in ("workers", "block"):
        with pytest.raises(SettingError, match=f"`{setting}` must be an integer of at least 1; got 0"):
            Ray(**{setting: 0})
    one_process("fit", "--data", "images", *READ[:2], "-o", "one.safetensors", "--engine", "ray,nodes=2", code=1)
    assert "ray does not take nodes=2; it has workers and block" in capsys.readouterr().err
