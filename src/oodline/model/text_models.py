"""Models of transformers that classify texts: how they are told apart, and which tokenizer and length are theirs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from oodline._util.warning import warn
from oodline.errors import ModelError, SettingError
from oodline.preprocessing.text import SAMPLES, TextPreprocessing

TEXTS = "ForSequenceClassification"
"""How the name of the architecture of a classifier of texts ends."""

TOKENS = {
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}
"""How those of models with one decision per token end, and what loads them."""

STEADY = 1e-3
"""Difference that padding may make to logits, as a fraction of their range, in float32."""


def text_model(config: Any, name: str, rows: str = "") -> Any:
    """The class of transformers that loads a model of texts, by the architecture that its configuration states.

    Where it states none, a kind of model that has a classifier of texts and none of images is taken as one. None where
    the model does not read texts.

    Parameters
    ----------
    config : PretrainedConfig
        Of transformers.
    name : str
        What to call the model in messages.
    rows : str
        "tokens" for a language model or a classifier of tokens; else a classifier of texts.

    Raises
    ------
    ModelError
        Its architecture decides for another kind of rows, or has no head where the kind of model reads texts.
    """
    import transformers
    from transformers.models.auto import modeling_auto as auto

    stated = tuple(getattr(config, "architectures", None) or ())
    kind = getattr(config, "model_type", "")
    of_tokens = [one for one in stated if one.endswith(tuple(TOKENS))]
    if rows == "tokens":
        if stated and not of_tokens:
            raise ModelError(
                f"hf:{name} is a {', '.join(stated)}, which does not decide for each token. Use a model that ends in "
                f"{', '.join(TOKENS)}; or leave out the rows."
            )
        ending = next((end for end in TOKENS if stated and of_tokens[0].endswith(end)), "ForTokenClassification")
        return getattr(transformers, TOKENS[ending])
    if any(one.endswith(TEXTS) for one in stated):
        return transformers.AutoModelForSequenceClassification
    if of_tokens:
        raise ModelError(
            f"hf:{name} is a {of_tokens[0]}, which gives one decision per token. Say so: --rows tokens, or "
            f"rows='tokens'; or use a model that ends in {TEXTS}."
        )
    reads_text = (
        kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        and kind not in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    )
    if reads_text and stated:
        raise ModelError(
            f"hf:{name} is a {', '.join(stated)}, which has no trained classifier of texts. Train one, and save it as "
            f"a model that ends in {TEXTS}."
        )
    return transformers.AutoModelForSequenceClassification if reads_text else None


def text_preprocessing(name: str, model: nn.Module, max_length: object = None) -> TextPreprocessing:
    """The tokenizer that lies beside a model, and the most tokens that both take.

    Raises
    ------
    ModelError
        There is no tokenizer, it needs a package that is not installed, or it does not fit the model.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # files of any content fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"the tokenizer of hf:{name} cannot be loaded: {type(error).__name__}: {reason}. Save it beside the model: "
            "tokenizer.save_pretrained(FOLDER)."
        ) from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):  # what transformers makes of no files
        raise ModelError(
            f"the tokenizer of hf:{name} has no words: its files are not there. Save it beside the model: "
            "tokenizer.save_pretrained(FOLDER)."
        )
    config: Any = model.config
    padding = getattr(config, "pad_token_id", None)
    if tokenizer.pad_token_id is None and isinstance(padding, int) and 0 <= padding < len(tokenizer):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    if max_length is not None and (not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < 1):
        raise ModelError(f"`max_length` of hf:{name} must be a whole number of tokens; got {max_length}.")
    limits = [*_limits(model), *([max_length] if isinstance(max_length, int) else [])]
    own = tokenizer.model_max_length
    try:
        made = TextPreprocessing.of(
            tokenizer, max_length=min([*limits, own]) if limits else None, arguments=list(_arguments(model))
        )
    except SettingError as error:
        raise ModelError(f"the tokenizer of hf:{name} cannot be used: {error}") from error
    table = None
    with suppress(NotImplementedError, AttributeError):  # CANINE has several, of characters
        table = model.get_input_embeddings()  # type: ignore[operator]
    largest = max(tokenizer.get_vocab().values())
    if isinstance(table, nn.Embedding) and largest >= table.num_embeddings:
        raise ModelError(
            f"the tokenizer of hf:{name} has tokens up to number {largest}, and the model knows "
            f"{table.num_embeddings}: it belongs to another model. Save the model's own beside it."
        )
    return made


def check_padding(name: str, model: nn.Module, preprocessing: TextPreprocessing) -> None:
    """Warn where the answer for a text depends on the padding that longer texts in its batch bring.

    Such models, ConvBERT and FNet among them, do not read the attention mask everywhere.
    """
    short, long = SAMPLES[0], " ".join(map(str, SAMPLES[:3]))
    try:
        with torch.no_grad():
            both = preprocessing.tokens([short, long]).inputs
            alone = model(**preprocessing.tokens([short]).inputs).logits[0]
            beside = model(**both).logits[0]
        if beside.ndim == 2:  # one row per token
            beside = beside[both["attention_mask"][0].bool()]
        off, span = float((alone - beside).abs().max()), float(beside.max() - beside.min())
    except Exception:  # the first pass says it in its own words
        return
    if off > max(STEADY, 16 * torch.finfo(beside.dtype).eps) * span:
        warn(
            f"what hf:{name} says of a text depends on the padding beside it: logits differ by up to {off:.2g}, of a "
            f"range of {span:.2g}. Read one text at a time, where there is none: batch_size=1, --batch-size 1, and "
            "--max-batch 1 in a service."
        )


def _arguments(model: nn.Module) -> Iterator[str]:
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield name


def _limits(model: nn.Module) -> Iterator[int]:
    """Tokens that the configuration and tables of positions have room for."""
    config: Any = model.config
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(most := getattr(config, name, None), int) and most > 0:
            yield most
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] == "position_embeddings":
            # RoBERTa and its kind count positions from the one after that of the padding
            yield module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)


__all__ = ["check_padding", "text_model", "text_preprocessing"]
