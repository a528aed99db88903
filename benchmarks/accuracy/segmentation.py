"""Segmentation: a small network that labels the pixels of digits 0 to 7, and canvases with other digits and letters.

    python -m benchmarks.accuracy.segmentation [--shared ../shared] [--model FILE] [--picture FILE] [--output FILE]

It trains the network on one core in some minutes, fits all detectors in one pass, measures them per pixel in one pass
per data set, and counts how often canvases without an unknown object are flagged. The canvases are those of
`benchmarks._canvases`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from benchmarks._canvases import KNOWN, UNKNOWN, Canvases, Kind, Split
from cyclopts import App
from scipy.stats import beta
from torch import Tensor, nn

import oodline as ol
from oodline.cli.options import Json, print_json
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.guard.fit_guards import fit_guards

DETECTORS = (
    "msp",
    "max-logit",
    "energy",
    "entropy",
    "kl-matching",
    "mahalanobis",
    "mahalanobis,by=all",
    "relative-mahalanobis",
    "residual",
    "vim",
    "neco",
    "fdbd",
    "she",
    "react",
    "ash-s",
    "dice",
    "line",
)
Kinds = tuple[tuple[int, int, Kind], ...]
"""Known digits, unknown objects and their kind, in turn."""
ID: Kinds = ((1, 0, "digits"), (2, 0, "digits"), (3, 0, "digits"))
OOD: dict[str, Kinds] = {
    "digits 8 and 9": ((1, 1, "digits"), (2, 1, "digits"), (2, 2, "digits")),
    "letters": ((1, 1, "letters"), (2, 1, "letters"), (2, 2, "letters")),
}
FALSE_ALARM, HELD_OUT, TEST = 0.05, 999, 500
NAMES = ("background", *map(str, range(KNOWN)))

app = App()


class Segmenter(nn.Module):
    """Convolutions down to a quarter, one step up beside the map of half the size, and a head of 32 features."""

    def __init__(self) -> None:
        super().__init__()

        def block(inside: int, outside: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(inside, outside, 3, stride, dilation, dilation, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU())

        self.fine = nn.Sequential(block(3, 16, 2), block(16, 32))
        self.coarse = nn.Sequential(block(32, 48, 2), block(48, 48, dilation=2), block(48, 48, dilation=2))
        self.both = block(80, 32)
        self.head = nn.Conv2d(32, 1 + KNOWN, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 9, H, W)."""
        return nn.functional.interpolate(self.head(self.features(images)), images.shape[2:], mode="bilinear")

    def features(self, images: Tensor) -> Tensor:
        """What the head reads (N, 32, H / 2, W / 2)."""
        fine = self.fine(images)
        coarse = nn.functional.interpolate(self.coarse(fine), fine.shape[2:], mode="bilinear")
        made: Tensor = self.both(torch.cat([fine, coarse], 1))
        return made


def draw(
    shared: Path, split: Split, count: int, kinds: Kinds = ID, *, seed: int = 0, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 64, 64) in [0, 1] and classes of their pixels (N, 64, 64)."""
    source = _canvases(shared, split, seed)
    made = []
    for i in range(first, first + count):
        digits, unknown, kind = kinds[i % len(kinds)]
        made.append(source.canvas(i, digits, unknown, kind=kind))
    images = torch.stack([torch.from_numpy(each.image) for each in made])
    return images.float() / 255, torch.stack([torch.from_numpy(each.mask) for each in made])


@lru_cache
def _canvases(shared: Path, split: Split, seed: int) -> Canvases:
    return Canvases(shared, split, seed)  # it decodes every texture


def batches(images: Tensor, masks: Tensor, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """Images and masks, batch by batch."""
    return list(zip(images.split(size), masks.split(size), strict=True))


def train(shared: Path, samples: int, epochs: int) -> nn.Module:
    """The network, trained on canvases of known digits."""
    torch.manual_seed(0)
    images, masks = draw(shared, "train", samples)
    model, batch = Segmenter(), 32
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    steps = epochs * (samples // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0] + [4.0] * KNOWN))
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(samples)[: samples // batch * batch].split(batch):
            optimiser.zero_grad()
            value = loss(model(images[rows]), masks[rows])
            value.backward()
            optimiser.step()
            schedule.step()
            total += float(value) * batch / samples
        print(f"epoch {epoch + 1}: loss {total:.3f}", flush=True)
    return model.eval()


def known_or_not(masks: Tensor) -> Tensor:
    """0 for pixels of known classes, 1 for those of unknown objects."""
    return (masks == UNKNOWN).long()


def interval(flagged: int, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a rate (Clopper and Pearson)."""
    low = float(beta.ppf(0.025, flagged, count - flagged + 1)) if flagged else 0.0
    return low, float(beta.ppf(0.975, flagged + 1, count - flagged)) if flagged < count else 1.0


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    samples: int = 2_500,
    epochs: int = 10,
    model: Path | None = None,
    picture: Path | None = None,
    output: Path | None = None,
    as_json: Json = False,
) -> None:
    """Train, fit, measure.

    Parameters
    ----------
    shared
        Folder with `data/ood/mnist.parquet` and `data/ood/textures.parquet`.
    samples, epochs
        Of the training.
    model
        File of the trained weights: read where it exists, else written.
    picture
        File for an overlay.
    output
        File for the tables.
    as_json
        Print the numbers as JSON.
    """
    detectors: dict[str, ol.Detector] = {name: ol.create_detector(name) for name in DETECTORS}
    network = Segmenter().eval()
    if model is not None and model.exists():
        network.load_state_dict(torch.load(model, weights_only=True))
    else:
        network = train(shared, samples, epochs)
        if model is not None:
            torch.save(network.state_dict(), model)
    classifier = ol.RowClassifier(network, ol.Pixels(region=0.01, fit_share=0.004))
    detectors["default"] = ol.default(classifier)
    # new canvases: those that the network was trained on give it more evidence than any others
    started = time.perf_counter()
    held_out, _ = draw(shared, "held-out", HELD_OUT)
    fitted = fit_guards(
        detectors,
        classifier,
        batches(*draw(shared, "train", 2_000, seed=1)),
        held_out.split(64),
        false_alarm=FALSE_ALARM,
        class_names=NAMES,
    )
    fit_seconds = time.perf_counter() - started
    unknown = {name: draw(shared, "test", TEST, kinds, seed=1) for name, kinds in OOD.items()}
    sets = {name: batches(images, known_or_not(masks)) for name, (images, masks) in unknown.items()}
    print(f"fitted and calibrated in {fit_seconds:.0f} s", flush=True)
    table = ol.evaluate_rows(detectors, classifier, sets)
    same = draw(shared, "held-out", TEST, first=HELD_OUT)  # other canvases of the same digits and textures
    other = draw(shared, "test", TEST)
    images = {"same": same[0], "other": other[0]} | {name: each for name, (each, _) in unknown.items()}
    scores = {name: ol.score(detectors, classifier, each.split(64)) for name, each in images.items()}
    found: dict[str, dict[str, float]] = {}
    for name, calibration in fitted.artifact.calibrations.items():
        found[name] = {data: float(calibration.is_ood(each[name]).double().mean()) for data, each in scores.items()}
        found[name] |= {f"{data}: AUROC": auroc(scores["other"][name], scores[data][name]) for data in OOD}
    with torch.no_grad():
        predicted = torch.cat([network(part).argmax(1) for part in other[0].split(64)])
    right = float((predicted == other[1])[other[1] > 0].double().mean())
    if picture is not None:
        shown = torch.cat([other[0][1:2], *(each[1:3] for each, _ in unknown.values())])
        verdict = fitted.guard("fdbd")(shown)
        assert isinstance(verdict, ol.RowVerdict)
        verdict.plot(shown).savefig(picture, dpi=150)
    if as_json:
        print_json({"digit pixels right": right, "pixels": table.to_dict(), "images": found})
        return
    text = "\n".join(lines(table, found, right, fit_seconds))
    print(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


def lines(table: ol.Table, found: dict[str, dict[str, float]], right: float, seconds: float) -> Iterator[str]:
    """Three tables."""
    yield f"{right:.1%} of the pixels of known digits have the right class; fitting all detectors took {seconds:.0f} s."
    yield ""
    yield "Per pixel, in %:"
    yield ""
    names = ("auroc", "aupr_out", "aupr_in", "fpr95_ood_positive", "fpr95_id_positive")
    short = ("AUROC", "AP, OOD positive", "AP, ID positive", "FPR@95, OOD positive", "FPR@95, ID positive")
    for data in OOD:
        cells = {name: each[data] for name, each in table.cells.items()}
        rows = [
            [name, *(f"{100 * getattr(cell, metric):.1f}" for metric in names), f"{table.milliseconds[name]:.2f}"]
            for name, cell in sorted(cells.items(), key=lambda item: -item[1].aupr_out)
        ]
        first = next(iter(cells.values()))
        yield f"{data}: {first.n_ood} of {first.n_id + first.n_ood} pixels are OOD."
        yield ""
        yield from markdown(["detector", *short, "ms per canvas"], rows)
        yield ""
    yield f"Per image, flagged with a promise of at most {FALSE_ALARM:.0%} from {HELD_OUT} held-out canvases:"
    yield ""
    rows = []
    for name, row in found.items():
        rates = []
        for key in ("same", "other"):
            low, high = interval(round(row[key] * TEST), TEST)
            rates.append(f"{100 * row[key]:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        rates += [f"{100 * row[f'{data}: AUROC']:.1f} / {100 * row[data]:.1f}" for data in OOD]
        rows.append([name, *rates])
    yield from markdown(
        ["detector", "held-out canvases", "other textures", *(f"{d}: AUROC / flagged" for d in OOD)], rows
    )


if __name__ == "__main__":
    app()
