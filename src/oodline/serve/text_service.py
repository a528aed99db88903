"""`TextService`: a guard of texts that answers requests: one JSON document of texts, judged in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from oodline._util.json_text import parse_json
from oodline.data.texts import HALF
from oodline.guard.guard import Guard
from oodline.passes.fit import reads
from oodline.preprocessing.kinds import AnyPreprocessing
from oodline.preprocessing.text import Text, TextPreprocessing, are_texts
from oodline.scoring.drift import DriftMonitor
from oodline.serve.batching import Work
from oodline.serve.guard_service import GuardService
from oodline.serve.problems import MALFORMED_JSON, TEXT_TOO_LONG, TOO_MANY_TEXTS, UNREADABLE_TEXT, Problem
from oodline.serve.settings import ServeSettings
from oodline.serve.uploads import Body

HOW = 'Send JSON as application/json: {"texts": ["...", "..."]}, where a text may be a pair of texts.'


@dataclass(frozen=True)
class SentText:
    """A text as it came, which may be no text; it has no name."""

    value: Any
    name: str | None = None


class TextService(GuardService):
    """A guard of texts that answers requests; parameters and errors as `GuardService`."""

    unit = "texts"
    one = "a text"
    problems = (MALFORMED_JSON, TOO_MANY_TEXTS, UNREADABLE_TEXT, TEXT_TOO_LONG)

    def __init__(
        self,
        guard: Guard,
        preprocessing: AnyPreprocessing | None = None,
        settings: ServeSettings | None = None,
        monitor: DriftMonitor | None = None,
    ) -> None:
        super().__init__(guard, preprocessing, settings, monitor)
        self._cut = Counter(
            "oodline_truncated_texts", "Texts that were cut at the most tokens", registry=self.metrics.registry
        )

    def request_body(self, most: int) -> dict[str, Any]:
        """What a request may be, for OpenAPI."""
        text = {"type": "string", "minLength": 1, "maxLength": self.settings.max_characters}
        pair = {"type": "array", "items": text, "minItems": 2, "maxItems": 2}
        texts = {"type": "array", "items": {"anyOf": [text, pair]}, "minItems": 1, "maxItems": most}
        schema = {"type": "object", "properties": {"texts": texts}, "required": ["texts"]}
        return {"application/json": {"schema": {**schema, "additionalProperties": False}}}

    def limits(self) -> dict[str, Any]:
        """What a request may be, for /v1/info."""
        s = self.settings
        known = {"max_body": s.max_body, "max_texts": s.max_images, "max_characters": s.max_characters}
        return {**known, "formats": ["JSON"]}

    def warm_up(self) -> None:
        """Judge two texts, so that the first request does not pay for it."""
        detector = self.guard.detector
        detector.score_rows(self.guard.classifier.everywhere()(self.preprocessing.example(), **reads([detector])))

    async def _uploads(self, body: Body) -> Sequence[SentText]:
        return read_texts(await body.document(HOW), self.settings)

    async def _result(self, upload: Any, work: Work) -> Any:
        try:
            with self._batcher.expecting():
                result = self._batcher.submit(checked_text(upload.value, self.settings), work)
            return await asyncio.wrap_future(result)
        except Problem as problem:
            return problem

    def _judge(self, inputs: Any) -> list[dict[str, Any]]:
        return super()._judge(self._tokens(inputs))

    def _explain(self, inputs: Any, top: int) -> list[dict[str, Any]]:
        return super()._explain(self._tokens(inputs), top)

    def _tokens(self, texts: Sequence[Text]) -> Any:
        made = self.preprocessing.tokens(texts)
        self._cut.inc(len(made.truncated))
        return made.inputs


def service_for(
    guard: Guard,
    preprocessing: AnyPreprocessing | None = None,
    settings: ServeSettings | None = None,
    monitor: DriftMonitor | None = None,
) -> GuardService:
    """The service for what a guard reads: images, or texts."""
    known = guard.preprocessing if preprocessing is None else preprocessing
    kind = TextService if isinstance(known, TextPreprocessing) else GuardService
    return kind(guard, preprocessing, settings, monitor)


def read_texts(content: bytes, settings: ServeSettings) -> list[SentText]:
    """The texts of a document, each yet to be checked.

    Raises
    ------
    Problem
        It is not JSON, has other keys, or holds no text or too many.

    Examples
    --------
    >>> [sent.value for sent in read_texts(b'{"texts": ["one", ["two", "three"]]}', ServeSettings())]
    ['one', ['two', 'three']]
    """
    try:
        document = parse_json(content)
    except ValueError as error:
        raise Problem(MALFORMED_JSON, f"It is not JSON: {error!s:.200}.", HOW) from error
    if not isinstance(document, dict) or list(document) != ["texts"] or not isinstance(document["texts"], list):
        raise Problem(MALFORMED_JSON, "It must be an object with a list, `texts`, and nothing else.", HOW)
    texts = document["texts"]
    if not texts:
        raise Problem(MALFORMED_JSON, "`texts` is empty.", HOW)
    if len(texts) > settings.max_images:
        raise Problem(TOO_MANY_TEXTS, f"{len(texts)} were sent.", f"Send at most {settings.max_images} at a time.")
    return [SentText(text) for text in texts]


def checked_text(value: Any, settings: ServeSettings) -> Text:
    """One text, or a pair, within the limits.

    Raises
    ------
    Problem
        It is something else, empty, too long, or holds what is no character.
    """
    parts = [value] if isinstance(value, str) else value
    if not isinstance(value, str | list) or not are_texts([value]):
        raise Problem(UNREADABLE_TEXT, f"It is a JSON {_kind(value)}, not a text.", HOW)
    if not all(part.strip() for part in parts):
        raise Problem(UNREADABLE_TEXT, "It is empty.", "Send a text that is not empty.")
    if (length := sum(map(len, parts))) > settings.max_characters:
        most = f"Send at most {settings.max_characters} characters (max_characters)."
        raise Problem(TEXT_TOO_LONG, f"It has {length} characters.", most)
    if any(HALF.search(part) for part in parts):
        raise Problem(UNREADABLE_TEXT, "It holds half of a surrogate pair, no character.", "Send Unicode text.")
    return parts[0] if isinstance(value, str) else (parts[0], parts[-1])


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", type(None): "null", bool: "true or false"}
    return names.get(type(value), "number")
