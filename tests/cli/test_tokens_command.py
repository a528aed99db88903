"""Tokens on the command line: language models and classifiers of tokens by their folders, as from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet
from transformers import BertConfig, BertForTokenClassification, GPT2Config, GPT2LMHeadModel

import oodline as ol
from oodline.cli import main
from oodline.data import open_loader
from oodline.errors import ModelError
from oodline.testing.texts import toy_texts, toy_tokenizer

COMMON = {"vocab_size": len(toy_tokenizer()), "initializer_range": 0.3, "pad_token_id": 0}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def tagger() -> Any:
    config = BertConfig(**COMMON, **SIZES, max_position_embeddings=32, id2label={0: "a word", 1: "a name"})
    return BertForTokenClassification(config)


def writer() -> Any:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "bos_token_id": 2, "eos_token_id": 3}
    return GPT2LMHeadModel(GPT2Config(**COMMON, **sizes))


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words), "--device", "cpu"])
    assert stop.value.code in (0, None)


@pytest.mark.parametrize(
    ("build", "rows", "detector"), [(tagger, "tokens,judged=lowest", "mahalanobis,by=all"), (writer, "tokens", "nll")]
)
def test_the_command_line_gives_what_python_gives(
    build: Any, rows: str, detector: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_texts(tmp_path)  # three files of texts, with one label per text, which is no label of tokens
    torch.manual_seed(0)
    model = build().eval()
    for part in (model, toy_tokenizer()):
        part.save_pretrained(tmp_path / "rows")
    files = ("--data", tmp_path / "train.csv", "--calibrate", tmp_path / "val.csv")
    path, scores = tmp_path / "g.safetensors", tmp_path / "s.parquet"
    run("fit", "--model", f"hf:{tmp_path / 'rows'}", "--rows", rows, *files, "-d", detector, "-o", path, "--quiet")
    run("score", path, tmp_path / "ood.csv", "-o", scores, "--quiet")
    classifier = ol.Classifier.load(f"hf:{tmp_path / 'rows'}", rows=rows, device="cpu")
    assert type(classifier.model) is type(model) and isinstance(classifier, ol.RowClassifier)
    train, held, odd = (
        [batch.inputs for batch in open_loader(tmp_path / f"{name}.csv", classifier.preprocessing)]
        for name in ("train", "val", "ood")
    )
    guard = ol.Guard(classifier, ol.create_detector(detector).fit(classifier, train)).calibrate(held)
    verdict = guard(odd[0])
    found = parquet.read_table(scores).to_pylist()
    assert [row["score"] for row in found] == pytest.approx(verdict.score.tolist(), rel=1e-5)
    assert [row["is_ood"] for row in found] == verdict.is_ood.tolist()
    capsys.readouterr()
    run("explain", path, tmp_path / "ood.csv", "--json")
    assert json.loads(capsys.readouterr().out)["rows"] == len(verdict.lists("score")[0])
    with pytest.raises(ModelError, match=r"gives one decision per token\. Say so: --rows tokens"):
        ol.load_model(f"hf:{tmp_path / 'rows'}")
    with pytest.raises(ModelError, match="which does not decide for each token"):
        ol.load_model(f"hf:{tmp_path / 'model'}", rows="tokens")
