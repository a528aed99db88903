"""Passes by Ray with real workers; run by test_ray.py in a process of its own: `cluster.py JOB FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
import torch
from problem import BATCH, Images, Spy, detectors, fitted, loader, network
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

import oodline as ol
from oodline.errors import DataError, OodlineError
from oodline.passes.ray import Ray


class Deadly(Images):
    """Images of which number `deadly` ends the process that reads it, the first time it is read."""

    def __init__(self, deadly: int, memory: Path) -> None:
        super().__init__()
        self.deadly, self.memory = deadly, memory

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i == self.deadly:
            with (self.memory / "reads").open("a") as file:
                file.write(f"{os.getpid()}\n")
            if len((self.memory / "reads").read_text().splitlines()) == 1:
                os._exit(1)
        return super().__getitem__(i)


class Stopping(Images):
    """Images that cannot be read past number `last` until the file `go` is there; notes what was read."""

    def __init__(self, last: int, memory: Path) -> None:
        super().__init__()
        self.last, self.memory = last, memory

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i > self.last and not (self.memory / "go").exists():
            raise DataError(f"image {i} is not there yet.")
        (self.memory / f"read-{i}").touch()
        return super().__getitem__(i)


def error_of(engine: Ray, data: object) -> str:
    try:
        ol.fit([Spy(), *detectors()], ol.Classifier(network()), data, engine=engine)
    except OodlineError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def share(folder: Path) -> None:
    save_file(fitted(Ray(workers=2, block=70), loader()), folder / "two workers.safetensors")


def lose_a_worker(folder: Path) -> None:
    killed = fitted(Ray(workers=2, block=70), DataLoader(Deadly(150, folder), BATCH), ol.Local())
    save_file(killed, folder / "one killed.safetensors")


def stop_and_go_on(folder: Path) -> None:
    data = DataLoader(Stopping(160, folder), BATCH)
    engine = Ray(workers=2, block=40, folder=folder / "unfinished")
    errors = {"stopped": error_of(engine, data)}
    for path in folder.glob("read-*"):
        path.unlink()
    (folder / "go").touch()
    errors["another run"] = error_of(Ray(block=100, folder=folder / "unfinished"), data)
    resumed = fitted(engine, data, ol.Local())
    save_file(resumed, folder / "resumed.safetensors")
    errors["list"] = error_of(Ray(block=70), list(loader()))
    (folder / "errors.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    {"share": share, "lose": lose_a_worker, "stop": stop_and_go_on}[sys.argv[1]](Path(sys.argv[2]))
    ray.shutdown()
