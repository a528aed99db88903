"""Would a member that reads intermediate layers help `Fuse`? Judged as in fuse_study.py, then on real OOD sets.

    python -m benchmarks.studies.fuse_layers [--only densenet100_cifar10] [--shared DIR] [--cache DIR] [--limit 400]

The member is in the manner of MaSF (Haroush et al., ICLR 2022): mean and standard deviation over space of every channel
of four convolutions, a quarter of the depth apart, each as its distance from the mean of the predicted class, in its
standard deviation. The score is minus the mean distance, every layer counting the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.studies.fuse_members import Scored, criterion, log_p, score_members
from benchmarks.studies.fuse_study import areas_of, fused
from benchmarks.studies.tune_passes import SETUPS, Setup, held_out_rows, open_setup, run_network, test_rows
from cyclopts import App
from torch import Generator, Tensor, nn

from oodline.cli.options import Json, print_json
from oodline.data.batch import unpack
from oodline.detectors.parts.combining import fisher
from oodline.evaluation.rendering import markdown
from oodline.model.activations import Activations
from oodline.tuning.pseudo_outliers import FAR, NEAR, Transform

DEFAULT = ("gen", "line", "fdbd", "vim")
"""The members of `Fuse()`, as fuse_members.py names them."""
MEMBER = "layers"
DEPTHS = 4
SHRINK = 5
"""Images of all classes that count in the mean of each: a class of few images has no mean of its own."""
LARGEST = (1000, 4000, 2000)

app = App()


def convolutions(model: nn.Module) -> list[str]:
    """Names of convolutions that lie evenly over the depth, the last one among them."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return [names[round((i + 1) * (len(names) - 1) / DEPTHS)] for i in range(DEPTHS)]


def moments(activations: Activations) -> tuple[list[Tensor], Tensor]:
    """Mean and standard deviation over space of each channel (N, 2 K), layer by layer, and the predicted classes."""
    maps = activations.layers.values()
    return [torch.cat([m.mean((2, 3)), m.flatten(2).std(2)], 1) for m in maps], activations.logits.argmax(1)


@dataclass(frozen=True, eq=False)
class Distances:
    """How far moments lie from those of the predicted class."""

    means: list[Tensor]
    deviations: list[Tensor]

    @classmethod
    def fit(cls, found: Sequence[tuple[list[Tensor], Tensor]], classes: int) -> Distances:
        """Means by predicted class (C, 2 K), and the deviation from them (2 K,), of each layer."""
        predicted = torch.cat([p for _, p in found])
        count = torch.bincount(predicted, minlength=classes).unsqueeze(1)
        means, deviations = [], []
        for values in map(torch.cat, zip(*(layers for layers, _ in found), strict=True)):
            total = torch.zeros(classes, values.shape[1]).index_add_(0, predicted, values)
            mean = (total + SHRINK * values.mean(0)) / (count + SHRINK)
            means.append(mean)
            deviations.append((values - mean[predicted]).std(0).clamp_min(1e-6))
        return cls(means, deviations)

    def scores(self, batches: Iterable[tuple[list[Tensor], Tensor]]) -> Tensor:
        """Minus the mean distance (N, 1)."""
        found = []
        for layers, predicted in batches:
            parts = zip(layers, self.means, self.deviations, strict=True)
            found.append(-torch.stack([((v - m[predicted]) / d).abs().mean(1) for v, m, d in parts]).mean(0))
        return torch.cat(found).double().unsqueeze(1)


def with_layers(name: str, setup: Setup, data: Path, scored: Scored, sizes: tuple[int, int, int]) -> Scored:
    """The same scores with one more member."""
    classifier, load = open_setup(name, setup, data)
    names = convolutions(classifier.model)
    n_held, n_test, n_ood = sizes

    def plain(rows: tuple[str, int, int | None]) -> Iterable[tuple[list[Tensor], Tensor]]:
        return (moments(a) for a, _ in classifier.stream(load(*rows), layers=names))

    def changed(transform: Transform) -> Iterable[tuple[list[Tensor], Tensor]]:
        for batch in load(*held_out_rows(setup, n_held)):  # the seeds of `hold_out`: the very same pseudo-outliers
            inputs, _, index = unpack(batch, 0)
            assert isinstance(inputs, Tensor)
            outliers = transform(inputs, Generator().manual_seed(int(index[0])))
            yield moments(classifier(outliers, layers=names))

    fit = list(plain((setup.fit, 0, None)))
    distances = Distances.fit(fit, classifier.head.num_classes)

    def both(known: Tensor, batches: Iterable[tuple[list[Tensor], Tensor]]) -> Tensor:
        return torch.cat([known, distances.scores(batches)], 1)

    return replace(
        scored,
        members=(*scored.members, MEMBER),
        fit=both(scored.fit, fit),
        held_out=both(scored.held_out, plain(held_out_rows(setup, n_held))),
        pseudo={k: both(scored.pseudo[k], changed(transform)) for k, transform in {**NEAR, **FAR}.items()},
        test=both(scored.test, plain(test_rows(setup, n_test))),
        real={k: both(v, plain((k, 0, n_ood))) for k, v in scored.real.items()},
    )


def judge(scored: Scored) -> dict[str, dict[str, Any]]:
    """The criterion of the choice, for one way to halve the held-out images, and AUROC on real OOD sets."""
    p, found = log_p(scored, 0), {}
    for label, members in {"default": DEFAULT, f"default + {MEMBER}": (*DEFAULT, MEMBER), MEMBER: (MEMBER,)}.items():
        areas = areas_of(scored, *fused(scored, members, fisher, scored.held_out))
        found[label] = {"criterion": 100 * criterion(p, scored.columns(members)), "real": areas}
    return found


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    only: list[str] | None = None,
    cache: Path | None = None,
    limit: int | None = None,
    as_json: Json = False,
) -> None:
    """Run the study.

    Parameters
    ----------
    shared
        Folder with `data`.
    only
        These classifiers only.
    cache
        Keep the activations of the last layer in this folder, as fuse_study.py does.
    limit
        At most so many images of each test set, and half as many held-out ones.
    as_json
        Print one JSON document in place of the table.
    """
    sizes = LARGEST if limit is None else (max(limit // 2, 40), limit, limit)
    found = {}
    for name in only or SETUPS:
        setup, data = SETUPS[name], shared / "data"
        scored = score_members(setup, run_network(name, setup, data, cache, sizes))
        found[name] = judge(with_layers(name, setup, data, scored, sizes))
    if as_json:
        print_json(found)
        return
    rows = []
    for name, results in found.items():
        for label, result in results.items():
            areas = "/".join(f"{v:.1f}" for v in result["real"].values())
            rows.append([name, label, f"{result['criterion']:.2f}", areas])
    print("\n".join(markdown(["classifier", "members", "criterion", "real OOD: near/far/mean"], rows)))


if __name__ == "__main__":
    app()
