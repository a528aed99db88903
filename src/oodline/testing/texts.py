"""A tiny classifier of texts as a folder with its tokenizer, and files of texts for it."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path
from typing import Any

import torch

WORDS = {
    "colour": ("red", "green", "blue", "grey", "pink"),
    "animal": ("cat", "dog", "emu", "cow", "hen"),
    "tool": ("saw", "axe", "drill", "nail", "rake"),
}
"""Classes, and what texts of each are about."""

FRAMES = {
    "train": (
        "a {}",
        "is it {} ?",
        "the {} of the day",
        "what is the {}",
        "tell me of {}",
        "how is {} today",
        "{} , {}",
    ),
    "val": ("the {}", "is {} it", "a {} of a day", "what {}", "tell me how {} is", "today , {}", "{} of the day ?"),
}


def toy_tokenizer() -> Any:
    """A WordPiece tokenizer of a few English words; other words are unknown to it.

    Examples
    --------
    >>> toy_tokenizer()("A red cat")["input_ids"]
    [2, 4, 19, 24, 3]
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    plain = ["a", "is", "it", "the", "of", "day", "what", "tell", "me", "how", "today", "?", ",", "sky", "rose"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *plain, *(word for words in WORDS.values() for word in words)]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def toy_texts(folder: str | Path, **options: Any) -> Path:
    """Write a tiny BERT for three classes of texts with its tokenizer, and `train`, `val` and `ood.csv` beside it.

    The body is random; the head is fitted to the training texts by ridge regression.

    Parameters
    ----------
    folder : str or Path
        The model is in `model` of it, as `hf:FOLDER/model` names it.
    **options
        Of the `BertConfig`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from oodline import Classifier
    >>> with TemporaryDirectory() as folder:
    ...     Classifier.load(f"hf:{toy_texts(folder)}").class_names
    ('tool', 'colour', 'animal')
    """
    from transformers import BertConfig, BertForSequenceClassification

    folder = Path(folder)
    names = ("tool", "colour", "animal")
    rows, held_out = (
        [(frame.format(word, word), name) for name in names for word, frame in product(WORDS[name], FRAMES[split])]
        for split in FRAMES
    )
    strange = [(frame.format(word), "") for word, frame in product(("love", "jazz", "my taxes"), FRAMES["val"])]
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("train", rows), ("val", held_out), ("ood", strange)):
        with (folder / f"{file}.csv").open("w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows([("text", "intent"), *content])
    tokenizer = toy_tokenizer()
    sizes = {"hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        initializer_range=0.15,
        id2label=dict(enumerate(names)),
        **{**sizes, **options},
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).eval()
        for part, factor in ((model.bert.embeddings.position_embeddings, 0.1), (model.bert.pooler.dense, 0.3)):
            part.weight.mul_(factor)
        features = model.bert(**tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")).pooler_output
        target = 6.0 * torch.eye(3)[[names.index(name) for _, name in rows]]
        ones = torch.cat([features, torch.ones(len(rows), 1)], 1)
        solved = torch.linalg.solve(ones.T @ ones + 0.1 * torch.eye(ones.shape[1]), ones.T @ target)
        model.classifier.weight.copy_(solved[:-1].T)
        model.classifier.bias.copy_(solved[-1])
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


__all__ = ["toy_texts", "toy_tokenizer"]
