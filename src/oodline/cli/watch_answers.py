"""Token scores of answers for `oodline watch`: says which answer to stop, and hands on one score per answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from oodline.cli.printing import say
from oodline.errors import DataError, InputError, SettingError

if TYPE_CHECKING:
    from oodline.scoring.answers import AnswerMonitor, Answers
    from oodline.scoring.class_calibration import AnyCalibration

FORMAT = "oodline watch of answers"


class AnswerRows:
    """Turns rows of tokens into rows of answers.

    Parameters
    ----------
    answers : Answers
        Those that have not ended.
    name : str
        The column that says which answer a token is of. A row whose `end` is true is the last of its answer.
    column : str
        The column of scores.
    say : callable
        Called with the name of an answer and its monitor when it is to be stopped.
    """

    def __init__(
        self, answers: Answers, name: str, column: str, say: Callable[[str, AnswerMonitor], None] | None = None
    ) -> None:
        self.answers, self.name, self.column, self.say = answers, name, column, say

    def of(self, rows: Iterable[Any], *, close: bool) -> Iterator[dict[str, float]]:
        """One row per answer that has ended, as they end; with `close`, also of those that are open at the end.

        Raises
        ------
        DataError
            A row has no answer or no finite score.
        """
        from oodline.scoring.answers import MOST_OPEN

        for number, row in enumerate(rows, start=1):
            name = row.get(self.name) if isinstance(row, Mapping) else None
            if not isinstance(name, str | int) or name == "" or isinstance(name, bool):
                raise DataError(f"row {number} has no answer as '{self.name}': {str(row)[:80]}.")
            before = self.answers.open.get(str(name))
            stopped = before is not None and before.stopped
            try:
                monitor = self.answers.update(str(name), float(row.get(self.column)))
            except (TypeError, ValueError, OverflowError, InputError):
                raise DataError(f"row {number} has no finite number as '{self.column}': {str(row)[:80]}.") from None
            if monitor.stopped and not stopped and self.say is not None:
                self.say(str(name), monitor)
            if row.get("end") in (True, 1, "1", "true", "True"):
                yield self._row(self.answers.end(str(name)))
            elif len(self.answers.open) > MOST_OPEN:
                yield self._row(self.answers.end())
        while close and self.answers.open:
            yield self._row(self.answers.end())

    def _row(self, monitor: AnswerMonitor) -> dict[str, float]:
        return {self.column: monitor.score}


def answers_of(calibration: AnyCalibration, rows: str | None) -> Answers:
    """Monitors of answers for a guard's file.

    Raises
    ------
    SettingError
        Its rows are not tokens that are judged while they come.
    """
    from oodline.model.rows.named import rows_of
    from oodline.scoring.answers import Answers
    from oodline.scoring.calibration import Calibration

    if rows is None or not isinstance(calibration, Calibration):
        raise SettingError(
            "`--answer` is for a guard of tokens, and this one has one row per input. Fit it on RowClassifier(model, "
            "Tokens(judged='running'))."
        )
    return Answers(calibration, rows_of(rows).per_input)


def with_answers(monitor: Mapping[str, Any], answers: Answers) -> dict[str, Any]:
    """The document of a state that also has the answers which have not ended."""
    return {"format": FORMAT, "monitor": dict(monitor), "answers": answers.state_dict()}


def taken_apart(document: Any, answers: Answers | None, path: Any) -> Any:
    """The state of the drift monitor in a document; fills `answers` with those in it.

    Raises
    ------
    DataError
        The state is one with answers, and none are read, or the other way round.
    """
    whole = isinstance(document, Mapping) and document.get("format") == FORMAT
    if whole != (answers is not None):
        with_or_without = "with" if whole else "without"
        raise DataError(f"{path} was written {with_or_without} --answer. Call it so again, or name another state file.")
    if answers is not None:
        answers.load_state_dict(document.get("answers") or {})
        return document.get("monitor")
    return document


def print_stop(name: str, monitor: AnswerMonitor) -> None:
    """One line for people."""
    say(
        f"STOP: answer {name} at token {monitor.stopped_at} (score {monitor.score:.4g}, threshold "
        f"{monitor.calibration.threshold:.4g}, p-value {monitor.p_value:.3g})",
        flush=True,
    )


def print_stop_json(name: str, monitor: AnswerMonitor) -> None:
    """One JSON object."""
    found = {"answer": name, "stopped_at": monitor.stopped_at, "score": monitor.score, "p_value": monitor.p_value}
    say(json.dumps(found, allow_nan=False), flush=True)
