"""Out-of-scope queries to an intent classifier: nothing in oodline is about images.

    python examples/clinc150.py --data ../shared/data/text/clinc150.json

CLINC150 (Larson et al., EMNLP 2019) has 150 intents, and queries that belong to none of them. A small network on TF-IDF
is trained on the `train` split; all detectors are fitted in one pass over the same split and meet `oos_test`; a LINe
guard is calibrated on `val`. The same seed gives the same numbers on the same machine.

    python examples/clinc150.py --write clinc150

writes the classifier and the splits as safetensors, which the commands take: `oodline bench protocols/clinc150.toml`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import scipy.sparse
import torch
from cyclopts import App, Parameter
from safetensors.torch import save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn
from torch.nn import functional as F

import oodline as ol
from oodline.cli.detectors import create_all
from oodline.cli.options import Json, print_json
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.evaluate import score_sets, tabulate_sets
from oodline.scoring.score import score_all

DATA = Path(os.environ.get("OODLINE_SHARED", "../shared")) / "data" / "text" / "clinc150.json"
LINE = "line,p_a=0.1,p_w=0.1,clip=90%"
"""The paper's ImageNet setting, its clip as a percentile since features have another scale here. Nothing is tuned."""

app = App()


class IntentClassifier(nn.Module):
    """TF-IDF to a ReLU layer to intents; a sparse vector is given as its places and its weights, like tokens.

    Parameters
    ----------
    vocabulary, width, intents : int
        Numbers of terms, of penultimate features, and of classes.
    """

    def __init__(self, vocabulary: int, width: int = 256, intents: int = 150) -> None:
        super().__init__()
        # place 0 pads: its weight is 0, so it adds nothing
        self.terms = nn.EmbeddingBag(vocabulary + 1, width, mode="sum")
        nn.init.normal_(self.terms.weight, std=0.1)
        self.bias = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, intents)

    def forward(self, terms: Tensor, weights: Tensor) -> Tensor:
        """Logits (N, C) of places (N, L), int64, and TF-IDF weights (N, L)."""
        hidden = F.relu(self.terms(terms, per_sample_weights=weights) + self.bias)
        return self.head(self.dropout(hidden))


class Queries:
    """Batches of queries as mappings, as a tokenizer yields them: anything that can be iterated again is a loader."""

    def __init__(self, vectors: scipy.sparse.csr_matrix, labels: Tensor | None, batch_size: int = 256) -> None:
        ends = vectors.indptr[1:-1]
        terms = [torch.from_numpy(part).long() + 1 for part in np.split(vectors.indices, ends)]
        weights = [torch.from_numpy(part).float() for part in np.split(vectors.data, ends)]
        pad = nn.utils.rnn.pad_sequence
        self.columns = {"terms": pad(terms, batch_first=True), "weights": pad(weights, batch_first=True)}
        if labels is not None:
            self.columns["labels"] = labels
        self.size, self.batch_size = len(terms), batch_size

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for rows in torch.arange(self.size).split(self.batch_size):
            yield self.batch(rows)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """The queries of these rows, padded to the longest of the split."""
        return {name: column[rows] for name, column in self.columns.items()}


@app.default
def main(
    *,
    data: Path = DATA,
    detector: Annotated[list[str] | None, Parameter(name=["--detector", "-d"], negative="")] = None,
    epochs: int = 10,
    width: int = 256,
    intents: int | None = None,
    bootstrap: int = 0,
    seed: int = 0,
    write: Path | None = None,
    as_json: Json = False,
) -> None:
    """Train, fit, evaluate and print.

    Parameters
    ----------
    data
        clinc150.json, as its authors publish it.
    detector
        NAME,setting=value, repeated; LINe and all others without it.
    epochs, width
        Of the classifier.
    intents
        Keep only so many of the 150.
    bootstrap
        Resamples for confidence intervals; 0 for none.
    seed
        Of weights and batches.
    write
        Only train, and write the classifier and the splits to this folder.
    as_json
        Print one JSON document in place of the table.
    """
    started = perf_counter()
    torch.manual_seed(seed)
    sets = read(data, intents)
    vocabulary, classes = (int(sets["train"].columns[name].max()) for name in ("terms", "labels"))
    model = train(IntentClassifier(vocabulary, width, classes + 1), sets["train"], epochs)
    trained = perf_counter() - started
    if write is not None:
        write_all(write, model, sets)
        sizes = f"vocabulary={vocabulary},width={width},intents={classes + 1}"
        print(f"wrote {write}, for --model python:{__file__}:IntentClassifier,{sizes}")
        return

    classifier = ol.Classifier(model)
    fitted = ol.fit(create_all(detector or [LINE, "all"]), classifier, sets["train"], on_failure="skip")
    tried = score_all(fitted.detectors, classifier, [next(iter(sets["train"]))], on_failure="skip")
    detectors = {name: fitted.detectors[name] for name in tried.scores}
    refused = {name: str(error) for name, error in (fitted.failures | tried.failures).items()}
    scored = score_sets(detectors, classifier, sets["test"], {"out of scope": sets["oos_test"]})
    table = tabulate_sets(scored, bootstrap=Bootstrap(bootstrap, seed=seed) if bootstrap else None)
    first = next(iter(detectors))
    guard = ol.Guard(classifier, detectors[first]).calibrate(sets["val"], tpr=0.95)
    flagged = {
        name: float(guard.calibration.is_ood(found.scores[first]).double().mean())
        for name, found in (("in scope", scored.id), ("out of scope", scored.ood["out of scope"]))
    }
    accuracy = float(scored.correct().double().mean())
    document = {"accuracy": accuracy, "flagged": flagged, "refused": refused, "train_seconds": trained}
    document |= {"detector": first, "seconds": perf_counter() - started}
    if as_json:
        print_json(table.to_dict() | document)
        return
    print(f"{classes + 1} intents, {accuracy:.1%} of in-scope test queries right; trained in {trained:.1f} s.\n")
    print(table)
    for name, reason in refused.items():
        print(f"left out {name}: {reason}")
    shares = ", ".join(f"{share:.1%} of {name} queries" for name, share in flagged.items())
    print(f"\n{first}, calibrated to accept 95 % of `val`, flags {shares}. {document['seconds']:.0f} s in all.")


def read(path: Path, intents: int | None = None) -> dict[str, Queries]:
    """Splits of the file as loaders; TF-IDF is fitted on `train` alone."""
    document = json.loads(path.read_text(encoding="utf-8"))
    names = sorted({intent for _, intent in document["train"]})[:intents]
    places = {name: i for i, name in enumerate(names)}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    found = {}
    for split in ("train", "val", "test", "oos_test"):
        queries = [(text, intent) for text, intent in document[split] if intent in places or split == "oos_test"]
        texts = [text for text, _ in queries]
        vectors = vectorizer.fit_transform(texts) if split == "train" else vectorizer.transform(texts)
        labels = None if split == "oos_test" else torch.tensor([places[intent] for _, intent in queries])
        found[split] = Queries(vectors.tocsr(), labels)
    return found


def train(model: IntentClassifier, queries: Queries, epochs: int) -> IntentClassifier:
    """Adam on shuffled batches; seconds on a CPU."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(queries.size).split(queries.batch_size):
            batch = queries.batch(rows)
            labels = batch.pop("labels")
            optimizer.zero_grad()
            F.cross_entropy(model(**batch), labels).backward()
            optimizer.step()
    return model.eval()


def write_all(folder: Path, model: IntentClassifier, sets: dict[str, Queries]) -> None:
    """The classifier and each split as a safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "classifier.safetensors")
    for split, queries in sets.items():
        save_file(queries.columns, folder / f"{split}.safetensors")


if __name__ == "__main__":
    app()
