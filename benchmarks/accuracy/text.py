"""Out-of-scope queries to a small BERT on CLINC150: AUROC of some methods, and the command line against Python.

    python -m benchmarks.accuracy.text [--shared ../shared] [--folder DIR] [--json]

A BERT of two layers is trained from scratch on the 150 intents, with a WordPiece tokenizer made from the same texts,
and saved as a folder (a few minutes on one core; `--folder` keeps it, and takes it again). Then both doors do the same
from raw text: `oodline fit` and `score` with `--model hf:FOLDER` on CSV files, and the functions of Python. Their
scores must be equal to the bit. The detectors are fitted on `train`, calibrated on `val`; ID is `test`, OOD the
labelled out-of-scope queries, `oos_test`. The same seed gives the same numbers on the same machine.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import pyarrow.parquet as pq
import torch
from cyclopts import App

import oodline as ol
from oodline.cli import main as command_line
from oodline.cli.options import Json, print_json
from oodline.data import open_loader
from oodline.evaluation.rendering import markdown
from oodline.guard.fit_guards import fit_guards

SPLITS = ("train", "val", "test", "oos_test")
METHODS = ("msp", "energy", "mahalanobis,by=all,normalise=1")
"""The last is Mahalanobis++."""

EPOCHS, BATCH, SIZE = 12, 128, 128
app = App()


@app.default
def main(*, shared: Path = Path("../shared"), folder: Path | None = None, seed: int = 0, as_json: Json = False) -> None:
    """Train, fit, compare and print."""
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(TemporaryDirectory()))
        found = run(shared / "data" / "text" / "clinc150.json", place, seed)
    if as_json:
        print_json(found)
        return
    rows = [[name, f"{100 * area:.2f}", f"{100 * flagged:.1f}"] for name, (area, flagged) in found["auroc"].items()]
    print(f"accuracy {100 * found['accuracy']:.2f} %, trained in {found['seconds']:.0f} s")
    print("\n".join(markdown(["detector", "AUROC", "flagged out-of-scope"], rows)))
    print(f"largest difference between command line and Python, of {found['scores']} scores: {found['difference']}")


def run(path: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Everything, as plain values."""
    document = json.loads(path.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "intent"), *document[split]])
    started = perf_counter()
    if not (folder / "model").exists():
        train(document["train"], folder / "model", seed)
    seconds = perf_counter() - started
    areas, columns, accuracy = by_python(folder)
    with TemporaryDirectory() as made:
        others = by_command_line(folder, Path(made))
    difference = max(float((here - others[key]).abs().max()) for key, here in columns.items())
    scores = sum(map(len, columns.values()))
    return {"accuracy": accuracy, "seconds": seconds, "auroc": areas, "scores": scores, "difference": difference}


def train(rows: list[tuple[str, str]], folder: Path, seed: int) -> None:
    """Make the tokenizer, train the model, and save both to a folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    texts, intents = [text for text, _ in rows], sorted({intent for _, intent in rows})
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=4000, special_tokens=special))
    ends = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * SIZE,
        max_position_embeddings=64,
        id2label=dict(enumerate(intents)),
        label2id={intent: i for i, intent in enumerate(intents)},
    )
    model = BertForSequenceClassification(config).train()
    labels = torch.tensor([config.label2id[intent] for _, intent in rows])
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    steps = EPOCHS * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(rows)).split(BATCH):
            tokens = tokenizer([texts[i] for i in batch], padding=True, return_tensors="pt")
            optimiser.zero_grad()
            model(**tokens, labels=labels[batch]).loss.backward()
            optimiser.step()
            schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def by_python(
    folder: Path,
) -> tuple[dict[str, tuple[float, float]], dict[tuple[str, str], torch.Tensor], float]:
    """AUROC and share of flagged OOD texts by detector, its scores by split, and the accuracy."""
    classifier = ol.Classifier.load(f"hf:{folder / 'model'}", device="cpu")
    names = classifier.class_names
    sets = {
        split: open_loader(folder / f"{split}.csv", classifier.preprocessing, class_names=names) for split in SPLITS[:3]
    }
    ood = open_loader(folder / "oos_test.csv", classifier.preprocessing)
    areas, columns = {}, {}
    for asked in (list(METHODS), None):
        fitted = fit_guards(asked, classifier, sets["train"], sets["val"], preprocessing=classifier.preprocessing)
        detectors = fitted.artifact.detectors
        scored = {
            "test": ol.score(detectors, classifier, sets["test"]),
            "oos_test": ol.score(detectors, classifier, ood),
        }
        table = ol.evaluate(detectors, classifier, sets["test"], {"oos": ood})
        for name in detectors:
            flagged = scored["oos_test"][name] < fitted.artifact.calibrations[name].threshold
            areas[name] = (table.value(name, "auroc", "oos"), float(flagged.double().mean()))
            columns |= {(name, split): scores[name] for split, scores in scored.items()}
    predicted = torch.cat([classifier(batch.inputs).predicted for batch in sets["test"]])
    labels = torch.cat([batch.labels for batch in sets["test"]])
    accuracy = float((predicted == labels).double().mean())
    return areas, columns, accuracy


def by_command_line(folder: Path, made: Path) -> dict[tuple[str, str], torch.Tensor]:
    """The same scores: `oodline fit` and `oodline score` from the CSV files."""
    reading = ["--text-column", "text", "--label-column", "intent", "--device", "cpu", "--quiet"]
    files = ["--data", str(folder / "train.csv"), "--calibrate", str(folder / "val.csv")]
    found = {}
    for asked in (METHODS, ()):
        guard, names = made / "guard.safetensors", [method.split(",")[0] for method in asked] or ["fuse"]
        chosen = [part for method in asked for part in ("-d", method)]
        call("fit", "--model", f"hf:{folder / 'model'}", *files, *chosen, *reading, "-o", str(guard))
        for split in ("test", "oos_test"):
            call("score", str(guard), str(folder / f"{split}.csv"), *reading, "-o", str(made / "rows.parquet"))
            table = pq.read_table(made / "rows.parquet")
            for name in names:
                column = "score" if name == names[0] else f"score_{name}"
                found[name, split] = torch.tensor(table[column].to_pylist(), dtype=torch.float64)
    return found


def call(*arguments: str) -> None:
    """Run `oodline` in this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            command_line(list(arguments))
        except SystemExit as stop:
            if stop.code:
                raise


if __name__ == "__main__":
    app()
