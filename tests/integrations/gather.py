"""Two processes that gather scores; run by test_torchmetrics.py in a process of its own: `gather.py FOLDER`."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from oodline.metrics import OODMetrics

SCORES = torch.tensor([3.0, 2.0, 2.0, 5.0, 1.0, 2.0, 4.0, 0.0])
IS_ID = torch.tensor([1, 1, 0, 1, 0, 1, 0, 0])
warnings.filterwarnings("ignore", "The ``compute`` method of metric")  # of the process that has no samples


def gather(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = []
    for mine in (slice(0, 3), slice(3, None)), (slice(0, None), None):  # of different lengths, and one without any
        metric = OODMetrics()
        if mine[rank] is not None:
            metric.update(SCORES[mine[rank]], IS_ID[mine[rank]])
        found.append({name: float(value) for name, value in metric.compute().items()})
    distributed.destroy_process_group()
    (folder / f"found.{rank}").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")  # all is imported once
    ranks = [context.Process(target=gather, args=(rank, Path(sys.argv[1]))) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in ranks))
