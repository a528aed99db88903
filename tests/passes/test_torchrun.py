"""Ranks in processes of their own give what one process gives, and end together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file

import oodline as ol
from oodline.errors import EngineError

HERE = Path(__file__).parent
READ = ["--model", "python:models.py:build", "--batch-size", "8"]
FIT = ["fit", *READ, "--data", "images", "-d", "line,clip=0.5", "-d", "knn,k=3", "--on-error"]
SCORE = ["score", "one.safetensors", "images", *READ, "--on-error", "skip", "-o"]


def start(size: int, *arguments: object) -> list[subprocess.CompletedProcess]:
    """Start ranks as torchrun does, but let none be killed when another one ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{k: str(v) for k, v in place.items()}, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        ranks.append(subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True))
    outputs = [rank.communicate(timeout=120) for rank in ranks]
    return [
        subprocess.CompletedProcess(rank.args, rank.returncode, *output)
        for rank, output in zip(ranks, outputs, strict=True)
    ]


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory) -> tuple[int, Path]:
    folder = tmp_path_factory.mktemp("ranks")
    for rank in start(request.param, HERE / "rank.py", folder):
        assert rank.returncode == 0, rank.stderr
    return request.param, folder


@pytest.mark.parametrize("name", ["run", "every_nth", "few"])
def test_ranks_give_what_one_process_gives(ranks, alone, assert_same, name):
    size, folder = ranks
    first, *others = [load_file(folder / f"{name}.{rank}.safetensors") for rank in range(size)]
    assert_same(first, alone / f"{name}.0.safetensors")
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


def test_all_ranks_end_with_the_sentence_of_the_one_that_failed(ranks):
    size, folder = ranks
    errors = [json.loads((folder / f"errors.{rank}.json").read_text()) for rank in range(size)]
    last = size - 1
    expected = {
        "twice": "rank 0: sample 0 was counted twice: two shares of the data hold it.",
        "broken": f"rank {last}: NaN or infinite activations in 1 of 12 rows of this batch (first: sample 299 of",
        "shuffled": "rank 0: a loader with a RandomSampler cannot be divided",
        "divided": "rank 0: a loader with a DistributedSampler cannot be divided",
        "empty": "rank 0: the loader yielded no batch.",
        "different": "rank 1: rank 1 was asked for another pass than rank 0",
        "early": "rank 0: NaN or infinite activations in 1 of 16 rows of this batch (first: sample 5 of",
    }
    for name, sentence in expected.items():
        for rank, found in enumerate(errors):
            assert f": {sentence}" in found[name], (name, rank)
            assert found[name].startswith("RankError")
    for found in errors:
        skipped = found["skipped"]
        assert (skipped["scored"], skipped["samples"]) == (["energy"], 300)
        assert skipped["failures"]["late"].startswith(
            "'late' gave NaN or infinite scores for 3 of 12 samples of a batch"
        )
    assert errors[last]["broken"].startswith("RankError from InputError")
    assert errors[0]["broken"].startswith("RankError: ")


def test_ranks_learn_soon_that_another_one_failed(ranks):
    size, folder = ranks
    for rank in range(1, size):
        # the share has 32 batches or more; the first round of 16 tells, and one batch is read ahead
        assert json.loads((folder / f"errors.{rank}.json").read_text())["read"] <= 17


def test_without_a_process_group_there_is_a_sentence():
    with pytest.raises(EngineError, match=r"no process group\. Start the program by torchrun"):
        ol.Torchrun()


@pytest.mark.filterwarnings("always::oodline.scoring.seen_data.SeenDataWarning")
def test_the_command_line_under_torchrun(place, one_process, capsys):
    one_process(*FIT, "skip", "--calibrate", "images", "-o", "one.safetensors")
    alone = capsys.readouterr()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "oodline"]
    done = subprocess.run(
        [*torchrun, *FIT, "skip", "--calibrate", "images", "-o", "two.safetensors"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    told = [line for line in done.stdout.splitlines() if "threshold" in line or line.startswith("wrote")]
    assert told == [
        line.replace("one.safetensors", "two.safetensors")
        for line in alone.out.splitlines()
        if line in told or "wrote" in line
    ]
    assert "on 59 images" in done.stdout
    assert alone.err in done.stderr
    assert "1 unreadable images of data were skipped: c/58.png" in done.stderr
    one, two = load_file("one.safetensors"), load_file("two.safetensors")
    torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6)

    one_process(*SCORE, "one.parquet")
    ranks = start(2, "-m", "oodline", *SCORE, "rows")
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr
    assert "scored 59 images by line, knn" in ranks[0].stdout
    assert ranks[1].stdout == ranks[1].stderr == ""
    assert [path.name for path in sorted(Path("rows").iterdir())] == [
        "part-000000000000.parquet",
        "part-000000000032.parquet",
    ]
    assert parquet.read_table("rows").to_pylist() == parquet.read_table("one.parquet").to_pylist()


def test_an_image_that_one_rank_cannot_read_ends_all_with_its_name(place):
    ranks = start(2, "-m", "oodline", *FIT, "raise", "-o", "two.safetensors")
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert ranks[0].stderr.startswith("error: rank 1: image c/58.png (number 58) cannot be read: ")
    assert [rank.stdout for rank in ranks] == ["", ""]
    assert ranks[1].stderr == ""
    assert not list(place.glob("*two*"))


def test_torchrun_is_named_where_it_did_not_start_the_process(place, one_process, capsys):
    one_process(*FIT, "skip", "-o", "one.safetensors", "--engine", "torchrun", code=1)
    assert "torchrun --nproc-per-node N -m oodline fit" in capsys.readouterr().err
    one_process(*FIT, "skip", "-o", "one.safetensors", "--engine", "toruchrn", code=1)
    assert "unknown engine 'toruchrn'. Did you mean 'torchrun'?" in capsys.readouterr().err
