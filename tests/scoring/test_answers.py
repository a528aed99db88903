"""Answers that are followed token by token: the same score as of the whole, and the promise."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import oodline as ol
from oodline.errors import InputError, SettingError
from oodline.scoring.answers import Answers
from oodline.scoring.calibration import calibrate


def answers(n: int, seed: int) -> list[Tensor]:
    """Scores of answers of uneven lengths, whose tokens hang together and whose level differs from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in torch.randint(1, 40, (n,), generator=generator).tolist():
        noise = torch.randn(length + 3, generator=generator)
        found.append(noise.unfold(0, 4, 1).mean(1) + 0.5 * torch.randn(1, generator=generator))
    return found


def whole(scores: list[Tensor], per_input: ol.LowestMean | ol.Lowest) -> Tensor:
    group = torch.cat([torch.full((len(own),), i) for i, own in enumerate(scores)])
    return per_input(torch.cat(scores), group, torch.arange(len(scores)))


@pytest.mark.parametrize("per_input", [ol.LowestMean(5), ol.LowestMean(1), ol.Lowest()])
def test_a_followed_answer_has_the_score_of_the_whole_to_the_last_bit(per_input: ol.LowestMean | ol.Lowest) -> None:
    some = answers(50, 0)
    calibration = calibrate(whole(answers(99, 1), per_input), 0.2)
    expected = whole(some, per_input).double()
    for own, score in zip(some, expected.tolist(), strict=True):
        monitor = ol.AnswerMonitor(calibration, per_input)
        stops = [i for i, value in enumerate(own, start=1) if monitor.update(value[None]) and monitor.stopped_at == i]
        if len(own) >= monitor.window:
            assert monitor.score == score
            assert monitor.stopped == (score <= calibration.threshold) == bool(stops)
        assert monitor.p_value == float(calibration.p_value(torch.tensor([monitor.score])))


def test_at_most_the_promised_share_of_answers_is_ever_stopped() -> None:
    per_input, rates = ol.LowestMean(5), []
    for seed in range(20):
        calibration = calibrate(whole(answers(99, 2 * seed), per_input), 0.1)
        new = answers(100, 2 * seed + 1)
        stopped = 0
        for own in new:
            monitor = ol.AnswerMonitor(calibration, per_input)
            stopped += monitor.update(own)
        rates.append(stopped / len(new))
    assert 0.05 < sum(rates) / 20 < 0.12  # a few answers are shorter than the window, and cannot be stopped


def test_what_turns_odd_is_stopped_within_a_window() -> None:
    calibration = calibrate(whole(answers(199, 0), ol.LowestMean(8)), 0.05)
    monitor = ol.AnswerMonitor(calibration, ol.LowestMean(8))
    assert not monitor.update(torch.zeros(500))
    assert monitor.update(torch.full((8,), -3.0))
    assert 500 < monitor.stopped_at <= 508


def test_a_state_goes_on_where_it_was_taken() -> None:
    calibration, per_input = calibrate(whole(answers(99, 1), ol.LowestMean(5)), 0.2), ol.LowestMean(5)
    own = torch.randn(30, generator=torch.Generator().manual_seed(0))
    straight, first = ol.AnswerMonitor(calibration, per_input), Answers(calibration, per_input)
    straight.update(own)
    for value in own[:11]:
        first.update("a", float(value))
    resumed = Answers(calibration, per_input)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    for value in own[11:]:
        resumed.update("a", float(value))
    monitor = resumed.end("a")
    assert (monitor.score, monitor.stopped_at, monitor.seen) == (straight.score, straight.stopped_at, 30)
    with pytest.raises(InputError, match="judged in another window"):
        Answers(calibration, ol.LowestMean(6)).load_state_dict(first.state_dict())
    for wrong in ({}, {"answers": {"a": {"seen": -1}}}, {"answers": {"a": {}}, "more": 1}):
        with pytest.raises(InputError, match="not a state of an"):
            Answers(calibration, per_input).load_state_dict(wrong)


def test_what_cannot_be_followed_is_refused() -> None:
    calibration = calibrate(torch.randn(99), 0.1)
    for per_input in (ol.Mean(), ol.Lowest(share=0.1), ol.Lowest(count=2)):
        with pytest.raises(SettingError, match="which only fall while an answer goes on"):
            ol.AnswerMonitor(calibration, per_input)
    monitor = ol.AnswerMonitor(calibration, ol.Lowest())
    with pytest.raises(InputError, match="`scores` must be finite numbers of tokens"):
        monitor.update(torch.tensor([0.0, torch.nan]))
    assert monitor.seen == 0 and monitor.score == torch.inf
