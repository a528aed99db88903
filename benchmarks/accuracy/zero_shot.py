"""Zero-shot: DenseNet features mapped to word vectors of CIFAR-100 class names, and what MCM and NegLabel see there.

    python -m benchmarks.accuracy.zero_shot [--shared ../shared] [--cache FOLDER] [--output FILE] [--json]

A linear map from features to word vectors is fitted on the training images of 80 classes. The other 20 classes and
CIFAR-10 are OOD. The word vectors come from a taxonomy written by hand (`benchmarks/_taxonomy.py`), since no vectors
learned from text are at hand, and the DenseNet was trained on all 100 classes; so this shows that the methods work as
described, and how they compare on weak text, and nothing of how good they are on CLIP.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from benchmarks._taxonomy import vectors
from benchmarks.accuracy.as_it_comes import open_network
from cyclopts import App
from torch import Tensor, nn

import oodline as ol
from oodline.cli.options import Json, print_json
from oodline.data import open_images
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown

NETWORK = "densenet100_cifar100"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RIDGE = 0.1
"""Of the linear map, on standardised features."""

app = App()


def linear_map(features: Tensor, targets: Tensor) -> nn.Module:
    """The ridge regression from features (N, D) to vectors (N, K)."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x = ((features - mean) / deviation).double()
    weight = torch.linalg.solve(x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1]), x.T @ targets.double()).T
    module = nn.Linear(features.shape[1], targets.shape[1], bias=True)
    with torch.no_grad():
        module.weight.copy_(weight / deviation)
        module.bias.copy_(-(weight / deviation) @ mean.double())
    return module


def detectors(words: Tensor, names_of_ood: Tensor) -> dict[str, ol.Detector]:
    """Those without images, then those that are fitted on them."""
    every = torch.cat([words, names_of_ood])
    return {
        "mcm": ol.MCM(),
        "mcm,temperature=0.1": ol.MCM(temperature=0.1),
        "mcm,temperature=0.01": ol.MCM(temperature=0.01),
        "neglabel": ol.NegLabel(words=words),
        "neglabel,temperature=0.1": ol.NegLabel(words=words, temperature=0.1),
        "neglabel,temperature=0.1,keep=1": ol.NegLabel(words=words, temperature=0.1, keep=1.0),
        "the same, OOD names among the words": ol.NegLabel(words=every, temperature=0.1, keep=1.0),
        "energy": ol.Energy(),
        "mahalanobis": ol.Mahalanobis(),
        "knn,k=10": ol.KNN(k=10),
        "default": ol.Fuse(),
    }


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    cache: Path | None = None,
    output: Path | None = None,
    as_json: Json = False,
) -> None:
    """Map, fit, score.

    Parameters
    ----------
    shared
        Folder with `data`.
    cache
        Folder of features, as `benchmarks.accuracy.backbones` keeps them.
    output
        File for the table.
    as_json
        Print the numbers as JSON.
    """
    known = open_network(NETWORK, shared / "data", cache, 1000)
    names = open_images(shared / "data" / "cifar100" / "test.parquet").class_names
    assert names is not None
    table = vectors()
    taken = torch.tensor([c for c in range(100) if c % 5 != 4])
    place = torch.full((100,), -1)
    place[taken] = torch.arange(80)
    text = torch.stack([table[names[c]] for c in taken.tolist()])
    candidates = torch.stack([v for word, v in table.items() if word not in names and word not in CIFAR10])
    left = torch.stack([table[word] for word in (*(names[c] for c in range(100) if c % 5 == 4), *CIFAR10)])

    activations, labels = known.sets["fit"]
    rows = place[labels] >= 0
    features, classes = activations.features[rows], place[labels[rows]]
    encoder = linear_map(features, text[classes])
    classifier = ol.Classifier.zero_shot(encoder, text, scale=20.0, names=[names[c] for c in taken.tolist()])

    test, truth = known.sets["test"]
    inside = place[truth] >= 0
    sets = {"20 classes": test.features[~inside]}
    sets |= {name: each.features for name, (each, _) in known.sets.items() if name not in ("fit", "test")}
    found = detectors(candidates, left)
    ol.fit(found, classifier, [(features, classes)])
    scores = {name: ol.score(found, classifier, [x]) for name, x in {"id": test.features[inside], **sets}.items()}
    result = {name: {each: auroc(scores["id"][name], scores[each][name]) for each in sets} for name in found}

    everything = torch.stack([table[name] for name in names])
    with torch.no_grad():
        said = (nn.functional.normalize(encoder(test.features), dim=1) @ everything.T).argmax(1)
        own = classifier(test.features[inside]).predicted
    unseen = ~inside
    about = {
        "accuracy on 80 classes": float((own == place[truth[inside]]).double().mean()),
        "accuracy on 20 new classes, among 100": float((said[unseen] == truth[unseen]).double().mean()),
        "samples": {name: len(each) for name, each in {"id": test.features[inside], **sets}.items()},
        "candidate words": len(candidates),
    }
    if as_json:
        print_json({**about, "auroc": result})
        return
    written = "\n".join(lines(about, result))
    print(written)
    if output is not None:
        output.write_text(written + "\n", encoding="utf-8")


def lines(about: dict[str, object], result: dict[str, dict[str, float]]) -> Iterator[str]:
    for key, value in about.items():
        yield f"{key}: {f'{value:.1%}' if isinstance(value, float) else value}"
    yield ""
    sets = list(next(iter(result.values())))
    yield from markdown(
        ["AUROC in %", *sets], [[n, *(f"{100 * row[s]:.1f}" for s in sets)] for n, row in result.items()]
    )


if __name__ == "__main__":
    app()
