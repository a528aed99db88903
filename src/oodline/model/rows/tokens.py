"""Rows of language models and of token classifiers: one per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from oodline._util.checked import checked_fields
from oodline._util.ranges import Count, Range
from oodline.data.batch import Inputs
from oodline.errors import HeadError, InputError, LabelError
from oodline.model.rows.per_input import Lowest, LowestMean, Mean, PerInput
from oodline.model.rows.placed import PlacedRows, Returned
from oodline.model.rows.places import OBSERVED
from oodline.model.rows.soft_cap import SoftCap, caps_in_config, with_cap


@checked_fields
@dataclass(frozen=True)
class Tokens(PlacedRows):
    """One row per token of a model that returns logits (N, T, C): a language model, or a token classifier.

    Tokens that `attention_mask` leaves out have no row. The row of a causal language model at token t predicts token
    t + 1, which is observed: the last token of a text, after which none came, has no row. Rows of an encoder-decoder
    are tokens of its decoder: the batch holds `decoder_input_ids`, and `decoder_attention_mask` where they are padded
    (if omitted, padding tokens at the end of a text have no row).

    Parameters
    ----------
    judged : {"mean", "lowest", "running"}
        The score of a text: the mean of its rows, the lowest, or the lowest mean of `window` rows in succession, which
        can be followed while the text is written (`Guard.stream`).
    window : int
        Rows of that mean; a shorter text has the mean of all.
    predicts : {"auto", "next", "own"}
        What a row predicts: the next token, or the class of its own. "auto" is "next" for a model of transformers that
        generates text, else "own".
    after : int, optional
        Only tokens after the last one of this number have rows, such as after the one that ends the prompt: the row at
        that token, which predicts the first of the answer, is the first. Every text must hold it; where it is also
        the padding, the mask says which count.
    fit_share : float
        Share of the rows that detectors are fitted on, chosen by a hash of their positions.
    ignore : int
        Label of tokens that are left out of fitting. Labels of a language model are tokens, as transformers has them:
        those of a causal one are of the tokens that it reads, those of an encoder-decoder of the tokens that it
        predicts. They say what is left out and are no classes to fit by.

    Examples
    --------
    >>> from oodline.model.rows.row_classifier import RowClassifier
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    >>> texts = torch.tensor([[3, 1, 4], [1, 5, 2]])
    >>> activations = RowClassifier(model, Tokens(predicts="next"))(texts)
    >>> activations.features.shape, activations.places.known["token"].tolist()
    (torch.Size([4, 8]), [1, 4, 5, 2])
    >>> RowClassifier(model, Tokens())(texts).features.shape
    torch.Size([6, 8])
    """

    judged: Literal["mean", "lowest", "running"] = "mean"
    window: Count = 16
    predicts: Literal["auto", "next", "own"] = "auto"
    after: int | None = None
    fit_share: Annotated[float, Range(0, 1, above=True)] = 1.0
    ignore: int = -100

    name: ClassVar = "tokens"
    unit: ClassVar = "token"
    scaled: ClassVar = True

    @property
    def per_input(self) -> PerInput:  # type: ignore[override]
        """How a text is judged by its tokens."""
        if self.judged == "running":
            return LowestMean(self.window)
        return Mean() if self.judged == "mean" else Lowest()

    def everywhere(self) -> Self:
        """The same without `after`, which a text that is no data need not hold."""
        return replace(self, after=None)

    def observes(self, model: nn.Module) -> bool:
        """Whether a row of this model predicts the next token."""
        if self.predicts != "auto":
            return self.predicts == "next"
        can_generate = getattr(model, "can_generate", None)  # of transformers
        return bool(callable(can_generate) and can_generate())

    def after_head(self, model: nn.Module) -> nn.Module | None:
        """The soft cap that the configuration of a language model states."""
        caps = caps_in_config(model) if self.observes(model) else []
        return SoftCap(caps[0]) if caps else None

    def returned(self, model: nn.Module, output: Any, inputs: Inputs, heads: Mapping[str, Tensor]) -> Returned:
        """The tokens; what a soft cap was applied to is found among the outputs of the head."""
        logits = token_logits(model, output)
        shape = (logits.shape[0], logits.shape[1])
        decodes = is_encoder_decoder(model)
        tokens = tokens_of(inputs, decodes)
        if tokens is not None and tokens.shape != shape:
            tokens = None
        kept = mask_of(inputs, shape, decodes)
        if kept is None and decodes and tokens is not None:
            kept = _before_padding(model, tokens)
        if self.after is not None:
            kept = _after(self.after, tokens, kept)
        known = {}
        if self.observes(model):
            if tokens is None:
                raise HeadError(
                    f"{type(model).__name__} predicts the next token, and the batch holds no tokens (N, T) of the "
                    f"shape of its logits, {shape}. Give them as '{'decoder_' if decodes else ''}input_ids'; where "
                    "rows predict their own class, take Tokens(predicts='own')."
                )
            known[OBSERVED] = torch.cat([tokens[:, 1:], tokens[:, :1]], 1)
            kept = _has_next(kept, shape, tokens.device)
        capped = with_cap(model, logits, heads) if known else None
        if capped is None:
            return Returned(logits, shape[1:], kept, known)
        return Returned(capped[0], shape[1:], kept, known, after=capped[1])

    def labels(self, labels: Tensor, grid: tuple[int, ...], inputs: int) -> Int[Tensor, "n p"]:
        """The label of each token."""
        if labels.shape != (inputs, *grid) or labels.is_floating_point():
            raise LabelError(
                f"labels of tokens must be whole numbers (N, T), here ({inputs}, {grid[0]}), with {self.ignore} where "
                f"a token has none; got {labels.dtype} of shape {tuple(labels.shape)}."
            )
        labels = labels.cpu().long()
        return torch.where(labels == self.ignore, -1, labels)

    def of_rows(self, labels: Int[Tensor, "n p *k"], model: nn.Module) -> Int[Tensor, "n p *k"]:
        """Labels of what each row predicts; for the last token, which has no row, its own."""
        if not self.observes(model) or is_encoder_decoder(model):
            return labels
        return torch.cat([labels[:, 1:], labels[:, -1:]], 1)


def token_logits(model: nn.Module, output: Any) -> Tensor:
    """The logits (N, T, C) that a model returned.

    Raises
    ------
    HeadError
        There are none.

    Examples
    --------
    >>> token_logits(nn.Identity(), {"logits": torch.ones(2, 5, 3)}).shape
    torch.Size([2, 5, 3])
    """
    for name in ("logits", "prediction_logits"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            output = found
            break
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 3:
        got = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise HeadError(
            f"{type(model).__name__} must return logits (N, T, C), one row per token, as they are or as 'logits'; got "
            f"{got}. Wrap it so that it does."
        )
    return output


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the logits of a model of transformers are of the tokens of its decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def mask_of(inputs: Inputs, shape: tuple[int, int], decodes: bool = False) -> Bool[Tensor, "n t"] | None:
    """Which tokens are not padding, where the batch says so.

    Raises
    ------
    InputError
        The mask is of another number of tokens.

    Examples
    --------
    >>> mask_of({"attention_mask": torch.tensor([[1, 1, 0]])}, (1, 3))
    tensor([[ True,  True, False]])
    """
    name = "decoder_attention_mask" if decodes else "attention_mask"
    mask = inputs.get(name) if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    if mask.shape != shape:
        raise InputError(f"`{name}` must be of the shape of the rows, {shape}; got {tuple(mask.shape)}.")
    return mask.bool()


def tokens_of(inputs: Inputs, decodes: bool = False) -> Int[Tensor, "n t"] | None:
    """The tokens that rows are of, where the batch holds them."""
    found = inputs if isinstance(inputs, Tensor) else inputs.get("decoder_input_ids" if decodes else "input_ids")
    return found.long() if isinstance(found, Tensor) and found.ndim == 2 and not found.is_floating_point() else None


def _before_padding(model: Any, tokens: Tensor) -> Tensor | None:
    padding = model.config.pad_token_id
    if padding is None:
        return None
    kept: Tensor = (tokens != padding).long().flip(1).cumsum(1).flip(1) > 0
    kept[:, 0] = True  # a decoder may start with the padding token
    return kept


def _after(token: int, tokens: Tensor | None, kept: Tensor | None) -> Tensor:
    if tokens is None:
        raise HeadError(f"`after`={token} needs tokens (N, T) in the batch, as 'input_ids'.")
    kept = torch.ones_like(tokens, dtype=torch.bool) if kept is None else kept.to(tokens.device)
    ends = (tokens == token) & kept
    missing = torch.nonzero(~ends.any(1) & kept.any(1)).flatten()
    if len(missing):
        raise InputError(
            f"`after`={token} must be in every text; {len(missing)} of {len(tokens)} do not hold it (first: position "
            f"{int(missing[0])} of the batch). Check that prompts end with it and were not cut off."
        )
    # with a cumulative sum from the end: 0 after the last such token, 1 from the one before up to it
    left = ends.long().flip(1).cumsum(1).flip(1)
    return kept & ((left == 0) | ((left == 1) & ends))


def _has_next(kept: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    kept = torch.ones(shape, dtype=torch.bool, device=device) if kept is None else kept
    return nn.functional.pad(kept[:, :-1] & kept[:, 1:], (0, 1))
