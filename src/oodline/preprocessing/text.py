"""`TextPreprocessing`: from texts to the tokens that a classifier of texts expects, by the model's own tokenizer."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, PrivateAttr
from torch import Tensor

from oodline._util.digests import combine
from oodline._util.warning import warn
from oodline.errors import InputError, PreprocessingWarning, SettingError

Text = str | tuple[str, str]
"""One text, or two that belong together, such as premise and hypothesis."""

SAMPLES: tuple[Text, ...] = (
    "The quick brown fox jumps over the lazy dog",
    "don't STOP: it's 12.50 € (or 3,000) -- www.example.org/a_b?c=d #tag @name",
    "Zürich, naïve café, El Niño; ﬁne½ ＡＢＣ",  # noqa: RUF001 - what normalising changes
    "привет мир 你好世界 こんにちは مرحبا 😀\tand\n new  lines ",
    ("is it raining", "yes, a little"),
)
"""Texts that tokenizers differ on: what one makes of them is part of its digest."""

UNLIMITED = 10**9
"""What tokenizers state where they know no limit is above this."""

_LOCK = threading.Lock()  # a tokenizer changes its settings for each call, and may not while another thread uses it


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a batch of texts became: the arguments of the model, and which of the texts were too long."""

    inputs: dict[str, Tensor]
    truncated: list[int]
    """Positions in the batch of those of which the end was left out."""


class TextPreprocessing(BaseModel):
    """From texts to tokens: the tokenizer of a classifier, and the most tokens that it takes.

    `TextPreprocessing.of(tokenizer)` makes one; models of transformers bring their own. As a record in a file it says
    which tokenizer it is, not what that does: the tokenizer itself comes with the model (`with_tokenizer_of`).

    Parameters
    ----------
    tokenizer : str
        Its class.
    digest : str
        SHA-256 of its vocabulary and of what it makes of fixed texts.
    max_length : int, optional
        Tokens of one input at most; the rest of a longer one is left out. None: no limit.
    arguments : tuple of str
        Those of the model that it gives, such as `input_ids` and `attention_mask`.

    Examples
    --------
    >>> from oodline.testing import toy_tokenizer
    >>> preprocessing = TextPreprocessing.of(toy_tokenizer(), max_length=6)
    >>> preprocessing(["a red rose", "the sky is blue"])["attention_mask"].sum(1)
    tensor([5, 6])
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: ClassVar[str] = "texts"
    """What its inputs are, in words."""

    tokenizer: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    max_length: PositiveInt | None = None
    arguments: tuple[str, ...]
    _tokenizer: Any = PrivateAttr(default=None)

    @classmethod
    def of(
        cls, tokenizer: Any, *, max_length: int | None = None, arguments: Sequence[str] | None = None
    ) -> TextPreprocessing:
        """That of a tokenizer of transformers.

        Parameters
        ----------
        tokenizer : PreTrainedTokenizerBase
            It is copied, so that settings changed later change nothing here.
        max_length : int, optional
            In place of the tokenizer's own limit.
        arguments : sequence of str, optional
            What the model takes; of what the tokenizer gives, only these are passed on. All if omitted.

        Raises
        ------
        SettingError
            It is not a tokenizer, has no padding token, or a limit that leaves no room for a text.
        """
        if not is_tokenizer(tokenizer):
            raise SettingError(f"`tokenizer` must be a tokenizer of transformers; got {type(tokenizer).__name__}.")
        if tokenizer.pad_token_id is None:
            raise SettingError(
                f"{type(tokenizer).__name__} has no padding token, so texts of several lengths cannot be one batch. "
                "Set `pad_token` of the tokenizer and `pad_token_id` of the model's configuration, as in its training, "
                "and save both."
            )
        least = tokenizer.num_special_tokens_to_add() + 1
        own = tokenizer.model_max_length
        limit = max_length or (own if isinstance(own, int) and own < UNLIMITED else None)
        if limit is not None and limit < least:
            raise SettingError(f"`max_length` must be at least {least}, with the special tokens; got {limit}.")
        tokenizer = copy.deepcopy(tokenizer)
        with _LOCK:
            made = [dict(_encoded(tokenizer, text)) for text in SAMPLES]
            padded = tokenizer(
                [SAMPLES[0], "a"], padding=True, truncation=True, max_length=least + 4, return_attention_mask=True
            )
        vocabulary = sorted(tokenizer.get_vocab().items())
        taken = tokenizer.model_input_names if arguments is None else arguments
        names = [name for name in padded if name in taken]
        found = cls(
            tokenizer=type(tokenizer).__name__,
            digest=combine([vocabulary, *(sorted(one.items()) for one in (*made, dict(padded)))]),
            max_length=limit,
            arguments=tuple(names),
        )
        found._tokenizer = tokenizer
        return found

    def with_tokenizer_of(self, other: object) -> TextPreprocessing:
        """The same with the tokenizer that `other` has, to be used; as it is where it has one, or `other` none.

        Warns
        -----
        PreprocessingWarning
            It is another tokenizer than the one that this is a record of.
        """
        if self._tokenizer is not None or not isinstance(other, TextPreprocessing) or other._tokenizer is None:
            return self
        if other.digest != self.digest:
            warn(
                f"the tokenizer is not that of the guard file, so scores and thresholds may mean nothing: its digest "
                f"is {other.digest[:12]} ({other.tokenizer}), and {self.digest[:12]} ({self.tokenizer}) there. Use the "
                "tokenizer that the guard was fitted with, or fit again.",
                PreprocessingWarning,
            )
        found = self.model_copy(update={"tokenizer": other.tokenizer, "digest": other.digest})
        found._tokenizer = other._tokenizer
        return found

    def tokens(self, texts: Sequence[Text]) -> Tokens:
        """The tokens of N texts, padded to the longest of them.

        Raises
        ------
        InputError
            There is no text, or something else than texts; or the tokenizer itself is not known.
        """
        if self._tokenizer is None:
            raise InputError(
                f"which tokenizer was used is known ({self.tokenizer}, {self.digest[:12]}), not the tokenizer itself. "
                "Load the model with its tokenizer, Classifier.load('hf:FOLDER'), or pass TextPreprocessing.of("
                "tokenizer)."
            )
        if not are_texts(texts):
            raise InputError("texts must be a list of strings, or of pairs of strings, and at least one.")
        limit = self.max_length
        try:
            with _LOCK:
                made = self._tokenizer(
                    *_columns(texts),
                    padding=True,
                    truncation=limit is not None,
                    max_length=limit,
                    return_attention_mask=True,
                    return_tensors="pt",
                )
                full = [] if limit is None else (made["attention_mask"].sum(1) >= limit).nonzero().flatten().tolist()
                truncated = [i for i in full if len(_encoded(self._tokenizer, texts[i])["input_ids"]) > (limit or 0)]
        except Exception as error:  # such as characters that are none
            raise InputError(f"the tokenizer refuses these texts: {type(error).__name__}: {error}.") from error
        return Tokens({name: made[name] for name in self.arguments if name in made}, truncated)

    def __call__(self, texts: Sequence[Text]) -> dict[str, Tensor]:
        """What the model takes for N texts: each argument (N, L), L the tokens of the longest text.

        Warns
        -----
        UserWarning
            A text has more than `max_length` tokens, and its end is left out.
        """
        made = self.tokens(texts)
        if made.truncated:
            warn(f"texts of more than {self.max_length} tokens are cut there: {len(made.truncated)} of {len(texts)}.")
        return made.inputs

    def example(self) -> dict[str, Tensor]:
        """Tokens of two texts, to try a classifier on.

        >>> from oodline.testing import toy_tokenizer
        >>> TextPreprocessing.of(toy_tokenizer()).example()["input_ids"].shape
        torch.Size([2, 11])
        """
        return self.tokens(SAMPLES[:1] * 2).inputs

    def describe(self) -> str:
        """In words.

        >>> from oodline.testing import toy_tokenizer
        >>> TextPreprocessing.of(toy_tokenizer(), max_length=64).describe()[:57]
        'the tokenizer TokenizersBackend, at most 64 tokens, diges'
        """
        most = "any number of tokens" if self.max_length is None else f"at most {self.max_length} tokens"
        return f"the tokenizer {self.tokenizer}, {most}, digest {self.digest[:12]}"


def is_tokenizer(value: object) -> bool:
    """Whether it is a tokenizer of transformers, of whatever version."""
    return any(kind.__name__ == "PreTrainedTokenizerBase" for kind in type(value).__mro__)


def are_texts(value: object) -> TypeGuard[Sequence[Text]]:
    """Whether it is a list of texts, or of pairs of them.

    >>> are_texts(["a"]), are_texts([("a", "b")]), are_texts("a"), are_texts([])
    (True, True, False, False)
    """
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(one, str) for one in value) or all(map(_is_pair, value))


def _is_pair(one: object) -> bool:
    return isinstance(one, list | tuple) and len(one) == 2 and all(isinstance(text, str) for text in one)


def _columns(texts: Sequence[Text]) -> list[list[str]]:
    if isinstance(texts[0], str):
        return [list(texts)]  # type: ignore[arg-type]
    return [[pair[0] for pair in texts], [pair[1] for pair in texts]]


def _encoded(tokenizer: Any, text: Text) -> Mapping[str, Any]:
    """One text in full length."""
    made: Mapping[str, Any] = tokenizer(*([text] if isinstance(text, str) else text), verbose=False)
    return made
