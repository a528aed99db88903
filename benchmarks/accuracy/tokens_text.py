"""Text for `tokens.py`: docstrings and code of Python's standard library, and a character-level GPT-2 trained on it."""

from __future__ import annotations

import ast
import codecs
import hashlib
import math
import random
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LENGTH = 128
"""Characters of an answer."""

TEST, HELD_OUT, OOD = 1000, 600, 500
"""Answers to measure on, to calibrate on, and of each OOD source."""

CHARACTERS = [chr(i) for i in range(32, 127)]
"""What is not among them is read as a question mark. Token 0 begins an answer; character i is token i + 1."""

STEPS, BATCH, WIDTH, LAYERS = 1200, 16, 64, 2
RATE = 5e-3
LEFT_OUT = ("site-packages/", "dist-packages/", "test/", "tests/", "idlelib/", "lib2to3/")


@dataclass(frozen=True)
class Texts:
    """Answers of `LENGTH` characters each, and one long text to train on."""

    train: str
    held_out: list[str]
    test: list[str]
    ood: dict[str, list[str]]


def texts() -> Texts:
    """Docstrings of the standard library as ID answers; its code, and docstrings that were changed, as OOD ones.

    A docstring is in one part only, chosen by a hash of it: parts are exchangeable.
    """
    documents, code = _standard_library()
    order = sorted(set(documents), key=_hash)
    long = [text for text in order if len(text) >= LENGTH]
    test, held_out = long[:TEST], long[TEST : TEST + HELD_OUT]
    away = {*test, *held_out}
    train = "\n".join(text for text in order if text not in away)
    pieces = [text[i : i + LENGTH] for text in code for i in range(0, len(text) - LENGTH, LENGTH)]
    pieces = sorted(set(pieces), key=_hash)[:OOD]
    return Texts(
        train,
        [text[:LENGTH] for text in held_out],
        [text[:LENGTH] for text in test],
        {
            "code": pieces,
            "words in random order": [_shuffled(text[:LENGTH]) for text in test[:OOD]],
            "letters replaced (rot13)": [codecs.encode(text[:LENGTH], "rot13") for text in test[:OOD]],
            "code after 64 characters": [
                text[: LENGTH // 2] + piece[: LENGTH // 2] for text, piece in zip(test[:OOD], pieces, strict=True)
            ],
        },
    )


def tokens_of(answers: list[str]) -> Tensor:
    """Tokens (N, T) of answers of one length, each with a beginning."""
    known = {character: i + 1 for i, character in enumerate(CHARACTERS)}
    return torch.tensor([[0, *(known.get(c, known["?"]) for c in text)] for text in answers])


def trained(path: Path, text: str) -> tuple[nn.Module, float]:
    """The model and the seconds that its training took, from a file, or trained and written to it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(CHARACTERS) + 1, n_positions=LENGTH + 1, n_embd=WIDTH, n_layer=LAYERS, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip
    if path.exists():
        state = load_file(path)
        seconds = float(state.pop("seconds"))
        model.load_state_dict(state, strict=False)
        model.tie_weights()
        return model.eval(), seconds
    whole = tokens_of([" ".join(text.split("\n"))])[0]
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    started = perf_counter()
    model.train()
    for step in range(STEPS):
        rate = RATE * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimiser.param_groups:
            group["lr"] = rate
        first = torch.randint(1, len(whole) - LENGTH, (BATCH, 1), generator=generator)
        batch = whole[first + torch.arange(LENGTH + 1)]
        batch[:, 0] = 0
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 0:
            spent = perf_counter() - started
            print(f"step {step}: {loss.item():.3f} nats per character, {spent:.0f} s", file=sys.stderr)
    seconds = perf_counter() - started
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file({**state, "seconds": torch.tensor(seconds)}, path)
    return model.eval(), seconds


def _standard_library() -> tuple[list[str], list[str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    documents, code = [], []
    for path in sorted(root.rglob("*.py")):
        if any(part in f"/{path.relative_to(root).as_posix()}" for part in LEFT_OUT):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if documented and (text := ast.get_docstring(node)):
                documents.append(" ".join(text.split()))
                node.body = node.body[1:] or [ast.Pass()]
        code.append(" ".join(ast.unparse(tree).split()))
    return documents, code


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _shuffled(text: str) -> str:
    words = text.split(" ")
    random.Random(text).shuffle(words)
    return " ".join(words)


if __name__ == "__main__":
    trained(Path(sys.argv[1]), texts().train)
