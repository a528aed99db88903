"""`AnswerStream`: score the tokens of answers while `model.generate` writes them, and stop those that turn odd."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.errors import InputError, SettingError
from oodline.model.classifier import Classifier
from oodline.model.rows.places import OBSERVED, Places
from oodline.model.rows.row_classifier import RowClassifier
from oodline.scoring.answers import AnswerMonitor
from oodline.scoring.calibration import Calibration
from oodline.scoring.class_calibration import AnyCalibration


class AnswerStream:
    """A stopping criterion for `generate` of transformers; made by `Guard.stream`.

    While it is open it listens to the head, so that each new token is scored from the one pass that made it. Sampling
    and greedy search only: beams change places.

    Parameters
    ----------
    classifier : RowClassifier
        Of a language model.
    detector : Detector
        Fitted on it.
    calibration : Calibration
        Of answers that are judged while they come.
    end : collection of int
        Tokens that end an answer; those of the model's configuration if empty.

    Raises
    ------
    SettingError
        The rows of the classifier do not predict the next token, or answers are judged at their end only.

    Examples
    --------
    >>> import oodline as ol
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> _ = torch.manual_seed(0)
    >>> sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 32, "vocab_size": 9}
    >>> model = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=None, bos_token_id=0, pad_token_id=0)).eval()
    >>> classifier = ol.RowClassifier(model, ol.Tokens(judged="running", window=4))
    >>> texts = torch.randint(1, 9, (40, 12))
    >>> guard = ol.Guard(classifier, ol.NLL()).calibrate(texts, false_alarm=0.05)
    >>> prompt = {"input_ids": texts[:2, :1], "attention_mask": torch.ones(2, 1, dtype=torch.int64)}
    >>> with guard.stream() as stream:
    ...     _ = model.generate(**prompt, max_new_tokens=8, do_sample=False, stopping_criteria=[stream])
    >>> [monitor.seen for monitor in stream.monitors], stream.stopped.tolist()
    ([8, 8], [False, False])
    """

    def __init__(
        self, classifier: Classifier, detector: Detector, calibration: AnyCalibration, end: Collection[int] = ()
    ) -> None:
        if not isinstance(classifier, RowClassifier) or not isinstance(calibration, Calibration):
            raise SettingError(
                "a stream is of tokens, and this guard has one row per input. Take RowClassifier(model, "
                "Tokens(judged='running')) of a language model."
            )
        if not classifier.rows.observes(classifier.model):
            raise SettingError(
                f"answers are of language models, whose rows predict the next token; these {classifier.rows.name} "
                "do not. Take RowClassifier(model, Tokens(judged='running'))."
            )
        self.classifier, self.detector, self.calibration = classifier, detector, calibration
        self._new_monitor()  # raises where answers cannot be followed
        self.end = frozenset(end) or frozenset(_end_tokens(classifier.model))
        self.monitors: list[AnswerMonitor] = []
        """One per answer, once the first token came."""
        self._ended: Bool[Tensor, " n"] | None = None
        self._before: Int[Tensor, "n t"] | None = None
        self._listening: AbstractContextManager[Mapping[str, Any]] | None = None
        self._seen: Mapping[str, Any] = {}

    @property
    def stopped(self) -> Bool[Tensor, " n"]:
        """Which answers were stopped (N,)."""
        return torch.tensor([monitor.stopped for monitor in self.monitors], dtype=torch.bool)

    def __enter__(self) -> Self:
        self.monitors, self._ended, self._before = [], None, None
        self._listening = self.classifier.overhear()
        self._seen = self._listening.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.__exit__(kind, error, trace)
        self._listening, self._seen = None, {}

    def __call__(self, input_ids: Int[Tensor, "n t"], scores: Any = None, **_others: Any) -> Bool[Tensor, " n"]:
        """Score the last token of each answer; which answers are to end (N,). Called by `generate`.

        Raises
        ------
        InputError
            The stream is not open, the model was not run for these tokens, or they are beams that changed places.
        """
        count = len(input_ids)
        if self._listening is None:
            raise InputError("the stream is not open. Write `with guard.stream() as stream:` around generate.")
        if self._before is not None and not torch.equal(self._before, input_ids[:, :-1]):
            raise InputError(
                "these tokens do not go on where those before ended: beam search lets answers change places. Take "
                "num_beams=1, and open a new stream for each call of generate."
            )
        if self._ended is None:
            self.monitors = [self._new_monitor() for _ in range(count)]
            self._ended = torch.zeros(count, dtype=torch.bool)
        token, step = input_ids[:, -1], self.monitors[0].seen if self.monitors else 0
        places = Places(
            torch.arange(count),
            torch.full((count,), step),
            torch.arange(count),
            (step + 1,),
            self.classifier.rows.per_input,
            input_ids.new_zeros(count, 0).float(),
            {OBSERVED: token},
        )
        with torch.no_grad():
            activations = self.classifier.last_rows(self._seen, places)
            found = self.detector(activations).double().cpu()
        for i, monitor in enumerate(self.monitors):
            if not self._ended[i]:
                monitor.update(found[i : i + 1])
                self._ended[i] = monitor.stopped or int(token[i]) in self.end
        self._before = input_ids.clone()
        return self.stopped.to(input_ids.device)

    def _new_monitor(self) -> AnswerMonitor:
        return AnswerMonitor(self.calibration, self.classifier.rows.per_input)


def _end_tokens(model: Any) -> list[int]:
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        found = getattr(config, "eos_token_id", None)
        if found is not None:
            return list(found) if isinstance(found, list | tuple) else [found]
    return []
