"""Are the maps faithful, and do the important neurons matter for the verdict? Measured on classifiers for CIFAR-10.

    python -m benchmarks.studies.faithfulness [NETWORK ...] [--shared ../shared] [--images 24] [--parts 4] [--json]

For each network:

- deletion and insertion of the predicted class's probability in the order of our map of the class's important neurons,
  of the size of the input's gradient, and at random; agreement with exact Shapley values of 12 regions (4,096 images
  each); agreement with the map of the same network with shuffled weights (near 0 is right);
- LINe's claim: how often a verdict changes when so many neurons are set to 0, the important ones of the predicted
  class, as many at random, and the least important ones; and what each does to the predicted class;
- AUROC of `map-agreement` beside energy; passes that maps cost, by time.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean

import torch
from benchmarks.accuracy.as_it_comes import IMAGES
from cyclopts import App
from torch import Tensor

import oodline as ol
from oodline.cli.options import Json, print_json
from oodline.data import ImageLoader, image_loader, open_images
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.explain.faithful import agreement_with_parts, curves, randomised, rank_correlation
from oodline.explain.maps import place_maps
from oodline.explain.parts import shapley_parts
from oodline.explain.values import value_of
from oodline.model.zoo import load_model

NETWORKS = ("resnet20_cifar10", "convnext_cifar10")
SETS = {"id": "cifar10/test", "near": "cifar100/test", "textures": "ood/textures", "svhn": "ood/svhn"}
SHARES = (0.05, 0.2)
"""Shares of the neurons that are set to 0."""
app = App()


@app.default
def main(
    *names: str,
    shared: Path = Path("../shared"),
    images: int = 24,
    parts: int = 4,
    limit: int = 300,
    as_json: Json = False,
) -> None:
    """Measure maps on ID test images, and pruning on ID and OOD images.

    Parameters
    ----------
    names
        Networks for CIFAR-10 of `as_it_comes.IMAGES`.
    shared
        Folder with `data`.
    images
        Test images for the curves.
    parts
        The first of these, for which exact Shapley values are taken too.
    limit
        Images of each set for pruning and AUROC.
    as_json
        Print one JSON document in place of the tables.
    """
    found = {name: measure(name, shared / "data", images, parts, limit) for name in names or NETWORKS}
    if as_json:
        print_json(found)
        return
    for name, tables in found.items():
        print(f"\n### {name}\n")
        for title, rows in tables.items():
            cells = [[key, *(f"{value:.3f}" for value in row.values())] for key, row in rows.items()]
            print("\n".join(markdown([title, *next(iter(rows.values()))], cells)), "\n", flush=True)


def measure(name: str, data: Path, images: int, parts: int, limit: int) -> dict[str, dict[str, dict[str, float]]]:
    setup = IMAGES[name]
    loaded = load_model(setup.model, data / "checkpoints" / f"{name}.safetensors")
    classifier, preprocessing = ol.Classifier(loaded.model), setup.preprocessing or loaded.preprocessing

    def load(path: str, part: slice) -> ImageLoader:
        source = open_images(data / f"{path}.parquet")
        return image_loader(ol.data.Subset(source, range(*part.indices(len(source)))), preprocessing)

    line, agree = ol.LINe(), ol.MapAgreement()
    fitted = ol.fit([line, agree], classifier, load("cifar10/train", slice(2000)), on_failure="skip").detectors
    held_out = load("cifar10/test", slice(4000, 4500))
    guard = ol.Guard(classifier, line).calibrate(held_out, false_alarm=0.05)
    tests = {key: torch.cat([b.inputs for b in load(path, slice(limit))]) for key, path in SETS.items()}
    return {
        "map": of_maps(classifier, line, tests["id"][:images], parts),
        "pruned": of_pruning(guard, line, tests),
        "AUROC against": of_agreement(classifier, fitted, tests),
        "cost": of_cost(classifier, line, tests["id"][:32]),
    }


def weights_of(line: ol.LINe, activations: ol.Activations) -> Tensor:
    """W of the predicted class on its important neurons: those that make 80 % of what it contributes on average."""
    evidence = line.evidence(activations)
    positive = evidence.expected.clamp(min=0)
    order = positive.argsort(dim=1, descending=True)
    before = positive.gather(1, order).cumsum(1) - positive.gather(1, order)
    few = torch.zeros_like(positive, dtype=torch.bool).scatter(1, order, before < 0.8 * positive.sum(1, keepdim=True))
    return activations.head.linear.weight[evidence.predicted_class] * few


def our_map(classifier: ol.Classifier, line: ol.LINe, image: Tensor, weights: Tensor) -> Tensor:
    return place_maps(classifier, image.unsqueeze(0), weights.view(1, 1, -1)).values[0, 0].detach()


def of_maps(classifier: ol.Classifier, line: ol.LINe, images: Tensor, most: int) -> dict[str, dict[str, float]]:
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "gradient": [], "random": []}
    other = ol.Classifier(randomised(classifier.model))
    for i, image in enumerate(images):
        activations = classifier(image.unsqueeze(0))
        label = int(activations.predicted)
        weights = weights_of(line, activations)
        size = tuple(image.shape[1:])
        slope = classifier.gradients(image.unsqueeze(0), lambda z, c=label: z[:, c]).inputs[0].abs().sum(0)
        noise = torch.rand(size, generator=torch.Generator().manual_seed(i))
        of_other = other.gradients(image.unsqueeze(0), lambda z, c=label: z[:, c]).inputs[0].abs().sum(0)
        ours = our_map(classifier, line, image, weights)
        shuffled = {
            "ours": rank_correlation(ours.flatten(), our_map(other, line, image, weights).flatten()),
            "gradient": rank_correlation(slope.flatten(), of_other.flatten()),
        }
        parts = shapley_parts(value_of("logit", classifier, label=label), image) if i < most else None
        value = value_of("probability", classifier, label=label)
        for key, map in (("ours", ours), ("gradient", slope), ("random", noise)):
            found = curves(value, image, map)
            row = {"deletion": found.deletion_area, "insertion": found.insertion_area, "difference": found.difference}
            row["with shuffled weights"] = shuffled.get(key, float("nan"))
            if parts is not None:
                row["with Shapley values"] = agreement_with_parts(map, parts)
            rows[key].append(row)
    return {
        key: {column: mean(row[column] for row in found if column in row) for column in found[0]}
        for key, found in rows.items()
    }


def of_pruning(guard: ol.Guard, line: ol.LINe, tests: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Share of verdicts and of predicted classes that change when neurons of each image are set to 0."""
    found = {}
    for key, images in tests.items():
        activations = guard.classifier(images)
        before, predicted = verdicts(guard, activations), activations.predicted
        expected = line.evidence(activations).expected
        random = torch.rand(expected.shape, generator=torch.Generator().manual_seed(0))
        for share in SHARES:
            row = {}
            for how, ranking in (("important", expected), ("random", random), ("least", -expected)):
                count = round(share * ranking.shape[1])
                rows = ranking.topk(count, dim=1).indices
                features = activations.features.scatter(1, rows, 0.0)
                changed = activations.replace(features=features, logits=activations.head(features))
                row[f"verdict, {how}"] = float((verdicts(guard, changed) != before).float().mean())
                row[f"class, {how}"] = float((changed.predicted != predicted).float().mean())
            found[f"{key}, {share:.0%} of the neurons"] = row
    return found


def verdicts(guard: ol.Guard, activations: ol.Activations) -> Tensor:
    assert guard.calibration is not None
    return guard.calibration.is_ood(guard.detector(activations))


def of_agreement(
    classifier: ol.Classifier, fitted: dict[str, ol.Detector], tests: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    detectors = {**fitted, "energy": ol.Energy()}
    scores = {key: ol.score(detectors, classifier, [images]) for key, images in tests.items()}
    return {
        name: {key: 100 * auroc(scores["id"][name], scores[key][name]) for key in tests if key != "id"}
        for name in detectors
    }


def of_cost(classifier: ol.Classifier, line: ol.LINe, images: Tensor) -> dict[str, dict[str, float]]:
    """Time of four maps for a batch by that of one forward pass, and how often the network is run."""
    weights = weights_of(line, classifier(images)).unsqueeze(0).repeat(4, 1, 1)
    runs = []
    hook = classifier.model.register_forward_hook(lambda *_: runs.append(1))
    place_maps(classifier, images, weights)
    hook.remove()

    def seconds(call: object) -> float:
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            call()  # type: ignore[operator]
            best = min(best, time.perf_counter() - start)
        return best

    ratio = seconds(lambda: place_maps(classifier, images, weights)) / seconds(lambda: classifier(images))
    return {"four maps": {"forward passes": len(runs), "time by that of a forward pass": ratio}}


if __name__ == "__main__":
    app()
