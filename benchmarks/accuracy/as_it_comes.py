"""Every detector with its default settings, on six image classifiers and two of text, beside MSP.

    python -m benchmarks.accuracy.as_it_comes [NETWORK ...] [--shared ../shared] [--cache FOLDER] [--limit N] [--json]

The networks run once over each data set; with `--cache` their features are kept. A detector that lies more than five
points of mean AUROC below MSP must have warned when it was fitted; the last column is what it said.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks._common import load_example
from benchmarks.studies.tune_passes import SETUPS, Setup, Store, cifar, open_setup, test_rows
from cyclopts import App
from torch import Tensor, nn

from oodline import Classifier, Detector
from oodline.cli.options import Json, print_json
from oodline.detectors.catalog import CATALOG, create_detector
from oodline.errors import OodlineError
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.model.activations import Activations
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.scoring.score import score

CONVNEXT = "timm:convnext_atto,patch_size=2,dims=[32,64,128,256],depths=[2,2,4,2],num_classes=10"
MORE = {
    "convnext_cifar10": replace(
        cifar(CONVNEXT, "cifar10", "cifar100", "", ""),
        preprocessing=Preprocessing(resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    ),
    "efficientnet_lite0_imagenet": replace(
        SETUPS["mobilenetv2_imagenet"],
        model="timm:tf_efficientnet_lite0",
        label_offset=0,
        preprocessing=Preprocessing(
            resize=(224, 224), mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"
        ),
    ),
}
IMAGES: dict[str, Setup] = {**SETUPS, **MORE}
TEXT = {"clinc150_relu": False, "clinc150_gelu_layernorm": True}
OOD = 500
"""Images of each OOD set at most."""
FEW = (300, 100, 50)
"""Training, test and OOD images, of each set, for detectors that run the network again or read its maps."""
FAR_BELOW = 5.0

app = App()


@dataclass(frozen=True, eq=False)
class Known:
    """A classifier, its sets as activations, and as loaders of few images for those that need the network itself."""

    classifier: Classifier
    sets: Mapping[str, tuple[Activations, Tensor]]
    groups: Mapping[str, tuple[str, ...]]
    few: Callable[[str, int], Iterable[Any]]
    preprocessing: Preprocessing | None = None


def open_network(name: str, data: Path, cache: Path | None, limit: int) -> Known:
    """One of `IMAGES` or `TEXT` with its sets."""
    return images(name, data, cache, limit) if name in IMAGES else queries(TEXT[name], data, limit)


def images(name: str, data: Path, cache: Path | None, limit: int) -> Known:
    setup = IMAGES[name]
    classifier, load = open_setup(name, setup, data)
    store = Store(cache, name, classifier.head)
    where = {"fit": (setup.fit, 0, None), "test": test_rows(setup, limit)}
    where |= {path.split("/")[1 if path.startswith("ood") else 0]: (path, 0, OOD) for path in (*setup.near, *setup.far)}
    sets = {}
    for key, (path, start, stop) in where.items():
        kept = store.get(f"{path}.{start}.{stop}", lambda p=path, a=start, b=stop: stack(classifier, load(p, a, b)))
        sets[key] = (store.activations(kept), kept["labels"])
    names = list(where)[2:]
    groups = {"near": tuple(names[: len(setup.near)]), "far": tuple(names[len(setup.near) :])}

    def few(key: str, most: int) -> Iterable[Any]:
        path, start, _ = where[key]
        return load(path, start, start + most)

    said = setup.preprocessing
    return Known(classifier, sets, {k: v for k, v in groups.items() if v}, few, said)


class Signed(nn.Module):
    """The text classifier of the example with GELU and LayerNorm in place of ReLU: signed features."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.terms, self.bias, self.dropout, self.head = like.terms, like.bias, like.dropout, like.head
        self.norm = nn.LayerNorm(len(like.bias))

    def forward(self, terms: Tensor, weights: Tensor) -> Tensor:
        """Logits."""
        hidden = self.norm(nn.functional.gelu(self.terms(terms, per_sample_weights=weights) + self.bias))
        return self.head(self.dropout(hidden))


def queries(signed: bool, data: Path, limit: int) -> Known:
    example = load_example("clinc150")
    torch.manual_seed(0)
    read = example.read(data / "text" / "clinc150.json")
    vocabulary, classes = (int(read["train"].columns[name].max()) for name in ("terms", "labels"))
    model = example.IntentClassifier(vocabulary, intents=classes + 1)
    classifier = Classifier(example.train(Signed(model) if signed else model, read["train"], 10))
    drawn = {"fit": read["train"]}
    for key, split in (("test", "test"), ("out of scope", "oos_test")):
        rows = torch.randperm(read[split].size)[:limit].split(256)
        drawn[key] = [read[split].batch(part) for part in rows]
    sets = {}
    for key, loader in drawn.items():
        kept = stack(classifier, loader)
        index = torch.arange(len(kept["labels"]))
        sets[key] = (Activations(kept["features"], kept["logits"], classifier.head, index), kept["labels"])
    return Known(classifier, sets, {"near": ("out of scope",)}, lambda key, _: drawn[key])


def stack(classifier: Classifier, loader: Iterable[Any]) -> dict[str, Tensor]:
    """Features, logits and labels of a data set."""
    parts = list(classifier.stream(loader))
    labels = [torch.full((len(a),), -1) if y is None else y for a, y in parts]
    found = {"features": torch.cat([a.features for a, _ in parts]), "logits": torch.cat([a.logits for a, _ in parts])}
    return {**found, "labels": torch.cat(labels)}


def fit(detector: Detector, known: Known) -> None:
    """As `oodline.fit`, from activations."""
    activations, labels = known.sets["fit"]
    head = known.classifier.head
    wanted, checked = detector._requests(head), detector.assumed()
    for rows in torch.arange(len(labels)).split(500):
        part = Activations(activations.features[rows], activations.logits[rows], head, rows)
        for statistic in (*wanted.values(), *checked.values()):
            statistic.update(part, labels[rows])
    detector._settle(wanted, head)
    detector.check_assumptions(checked, head)


def measure(name: str, known: Known) -> dict[str, Any]:
    """One detector: AUROC by group, and what the fit said."""
    detector = create_detector(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if detector.needs_network:
                if known.preprocessing is not None:
                    detector.use_preprocessing(known.preprocessing)
                detector.fit(known.classifier, known.few("fit", FEW[0]))

                def scored(key: str) -> Tensor:
                    loader = known.few(key, FEW[1] if key == "test" else FEW[2])
                    return score(detector, known.classifier, loader)[name]

            else:
                fit(detector, known)

                def scored(key: str) -> Tensor:
                    with torch.no_grad():
                        return detector(known.sets[key][0]).double()

            own = scored("test")
            areas = {g: [100 * auroc(own, scored(key)) for key in keys] for g, keys in known.groups.items()}
        except OodlineError as error:
            return {"detector": name, "refused": " ".join(str(error).split())}
    said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    means = {group: sum(values) / len(values) for group, values in areas.items()}
    return {
        "detector": name,
        "auroc": means,
        "mean": sum(means.values()) / len(means),
        "said": said,
        "few": detector.needs_network,
    }


@app.default
def main(
    *names: str, shared: Path = Path("../shared"), cache: Path | None = None, limit: int = 1000, as_json: Json = False
) -> None:
    """Fit, score and print.

    Parameters
    ----------
    names
        Networks; all if omitted.
    shared
        Folder with `data`.
    cache
        Folder for the networks' features.
    limit
        Test samples at most.
    as_json
        Print one JSON document in place of the tables.
    """
    torch.set_num_threads(1)
    found = {}
    for name in names or (*IMAGES, *TEXT):
        known = open_network(name, shared / "data", cache, limit)
        rows = [measure(detector, known) for detector in CATALOG]
        msp = next(row for row in rows if row["detector"] == "msp")
        for row in rows:
            row["difference"] = row["mean"] - msp["mean"] if "mean" in row else None
        found[name] = rows
        if not as_json:
            print(page(name, rows), flush=True)
    if as_json:
        print_json(found)
    silent = [(n, r["detector"]) for n, rows in found.items() for r in rows if is_silent(r)]
    print(f"\nMore than {FAR_BELOW:g} points below MSP without a warning: {silent or 'none'}.") if not as_json else None


def is_silent(row: Mapping[str, Any]) -> bool:
    """Far below MSP, and nothing was said."""
    return row["difference"] is not None and row["difference"] < -FAR_BELOW and not row["said"]


def page(name: str, rows: list[dict[str, Any]]) -> str:
    """One network's table as Markdown, the best first."""
    cells = []
    for row in sorted(rows, key=lambda row: -row.get("mean", 0)):
        if "refused" in row:
            cells.append([row["detector"], "", "", f"refused: {row['refused'].split('. ')[0]}"])
            continue
        areas = " / ".join(f"{value:.1f}" for value in row["auroc"].values())
        said = "; ".join(
            text.split(". Change")[0].partition(" here: ")[2] or text.split(". ")[0] for text in row["said"]
        )
        label = row["detector"] + (" (few images)" if row["few"] else "")
        cells.append([label, areas, f"{row['difference']:+.1f}", said])
    groups = " / ".join(next(row for row in rows if "auroc" in row)["auroc"])
    return "\n".join([f"## {name}", "", *markdown(["detector", f"AUROC {groups}", "beside MSP", "warning"], cells), ""])


if __name__ == "__main__":
    app()
