"""Rows of language models and of token classifiers: one per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from oodline._util.checked import checked_fields
from oodline._util.ranges import Count, Range
from oodline.data.batch import Inputs
from oodline.errors import HeadError, LabelError
from oodline.model.rows.per_input import Lowest, LowestMean, Mean, PerInput
from oodline.model.rows.placed import PlacedRows, Returned
from oodline.model.rows.places import OBSERVED
from oodline.model.rows.soft_cap import SoftCap, caps_in_config, with_cap


@checked_fields
@dataclass(frozen=True)
class Tokens(PlacedRows):
    """One row per token of a model that returns logits (N, T, C): a language model, or a token classifier.

    Tokens that `attention_mask` leaves out have no row. The row of a causal language model at token t predicts token
    t + 1, which is observed: the last token of a text, after which none came, has no row.

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
        that token, which predicts the first of the answer, is the first.
    fit_share : float
        Share of the rows that detectors are fitted on, chosen by a hash of their positions.
    ignore : int
        Label of tokens that are left out of fitting. Labels of a causal language model are tokens, as transformers has
        them (not shifted); they say what is left out and are no classes to fit by.

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
    scaled: ClassVar = True

    @property
    def per_input(self) -> PerInput:  # type: ignore[override]
        """How a text is judged by its tokens."""
        if self.judged == "running":
            return LowestMean(self.window)
        return Mean() if self.judged == "mean" else Lowest()

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
        kept = mask_of(inputs, shape)
        tokens = tokens_of(inputs)
        if tokens is not None and tokens.shape != shape:
            tokens = None
        if self.after is not None:
            kept = _after(self.after, tokens, shape) & (True if kept is None else kept)
        known = {}
        if self.observes(model):
            if tokens is None:
                raise HeadError(
                    f"{type(model).__name__} predicts the next token, and the batch holds no tokens (N, T) of the "
                    f"shape of its logits, {shape}. Give them as 'input_ids'; where rows predict their own class, "
                    "take Tokens(predicts='own')."
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
        """Labels of what each row predicts, -1 for none."""
        if not self.observes(model):
            return labels
        return nn.functional.pad(labels[:, 1:], (0, 1), value=-1)


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


def mask_of(inputs: Inputs, shape: tuple[int, int]) -> Bool[Tensor, "n t"] | None:
    """Which tokens are not padding, where the batch says so."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return mask.bool() if isinstance(mask, Tensor) and mask.shape == shape else None


def tokens_of(inputs: Inputs) -> Int[Tensor, "n t"] | None:
    """The tokens of a batch, where it holds any."""
    found = inputs if isinstance(inputs, Tensor) else inputs.get("decoder_input_ids", inputs.get("input_ids"))
    return found.long() if isinstance(found, Tensor) and found.ndim == 2 and not found.is_floating_point() else None


def _after(token: int, tokens: Tensor | None, shape: tuple[int, int]) -> Tensor:
    if tokens is None:
        raise HeadError(f"`after`={token} needs tokens (N, T) in the batch, as 'input_ids'.")
    # with a cumulative sum from the end: 0 after the last such token, 1 from the one before up to it
    left = (tokens == token).long().flip(1).cumsum(1).flip(1)
    return (left == 0) | ((left == 1) & (tokens == token))


def _has_next(kept: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    kept = torch.ones(shape, dtype=torch.bool, device=device) if kept is None else kept
    return nn.functional.pad(kept[:, :-1] & kept[:, 1:], (0, 1))
