"""What one rank does, and what one process alone does; run by test_torchrun.py: `rank.py FOLDER`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from problem import BATCH, IMAGES, Images, detectors, fitted, loader, network
from safetensors.torch import save_file
from torch.utils.data import DataLoader, DistributedSampler

import oodline as ol
from oodline.data.batch import Batch
from oodline.errors import OodlineError
from oodline.passes.engine import Engine
from oodline.passes.sharding import shard
from oodline.passes.torchrun import ROUND, launched, process_group
from oodline.scoring.score import score_all


class TwiceFed:
    """A loader that gives every rank the first batch again."""

    def __iter__(self) -> Iterator[Batch]:
        return self.part(0, 1)

    def part(self, i: int, n: int) -> Iterator[Batch]:
        data = Images()
        for start in (0, (i + 1) * BATCH):
            rows = torch.arange(start, start + BATCH)
            yield Batch(data.images[rows], data.labels[rows], rows)


class Counted(DataLoader):
    """A loader that notes how many batches were read."""

    read = 0

    def part(self, i: int, n: int) -> Iterator[object]:
        for batch in shard(DataLoader(self.dataset, BATCH), i, n):
            Counted.read += 1
            yield batch


class Late(ol.Energy):
    """NaN for the last images, which the last rank has."""

    name = "late"

    def score(self, activations: ol.Activations) -> torch.Tensor:
        return torch.where(activations.index < IMAGES - 3, super().score(activations), torch.nan)


def skipped(engine: Engine) -> dict[str, object]:
    found = score_all([Late(), ol.Energy()], ol.Classifier(network()), loader(), on_failure="skip", engine=engine)
    reasons = {name: str(error) for name, error in found.failures.items()}
    return {"scored": list(found.scores), "samples": len(found.scores["energy"]), "failures": reasons}


def error_of(data: object, made: list[ol.Detector] | None = None) -> str:
    made = detectors() if made is None else made
    try:
        ol.fit(made, ol.Classifier(network()), data, engine=ol.Torchrun())
    except OodlineError as error:
        assert not any(detector.fitted for detector in made if detector.has_state)
        cause = "" if error.__cause__ is None else f" from {type(error.__cause__).__name__}"
        return f"{type(error).__name__}{cause}: {error}"
    return "no error"


def fit_all(engine: Engine, folder: Path, rank: int) -> None:
    for name, data in {"run": loader(), "every_nth": list(loader()), "few": loader(n=2 * BATCH)}.items():
        save_file(fitted(engine, data), folder / f"{name}.{rank}.safetensors")


def main(folder: Path) -> None:
    if not launched():
        fit_all(ol.Local(), folder, 0)
        return
    with process_group():
        engine = ol.Torchrun()
        fit_all(engine, folder, engine.rank)
        images = Images()
        long = Counted(Images(n=BATCH * ROUND * 6, broken=5), BATCH)
        errors = {
            "twice": error_of(TwiceFed()),
            "broken": error_of(loader(broken=IMAGES - 1)),
            "shuffled": error_of(DataLoader(images, BATCH, shuffle=True)),
            "divided": error_of(DataLoader(images, BATCH, sampler=DistributedSampler(images))),
            "empty": error_of([]),
            "different": error_of(loader(), [ol.LINe()] if engine.is_main else [ol.Mahalanobis()]),
            "early": error_of(long),
            "read": Counted.read,
            "skipped": skipped(engine),
        }
        (folder / f"errors.{engine.rank}.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
