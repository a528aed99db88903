"""The one thread that owns the classifier: what becomes a batch, what waits, and what is told when it ends."""

import threading
import time
from concurrent.futures import wait

import pytest
import torch

from oodline.errors import InputError
from oodline.serve.batching import Batcher
from oodline.serve.problems import Problem
from oodline.serve.settings import ServeSettings


@pytest.fixture
def batcher():
    made = []

    def make(**settings):
        seen = []
        batcher = Batcher(ServeSettings(**settings), lambda size, _: seen.append(size))
        made.append(batcher)
        return batcher, seen

    yield make
    for one in made:
        one.close()


def doubled(batch):
    return (2 * batch).tolist()


class Gate:
    """Work that waits to be let go."""

    def __init__(self):
        self.open, self.entered = threading.Event(), threading.Event()

    def __call__(self, batch):
        self.entered.set()
        assert self.open.wait(10)
        return batch.tolist()


def occupied(batcher):
    """Keep the thread busy, so that what is submitted next stands in the queue."""
    gate = Gate()
    first = batcher.submit(torch.tensor(0.0), gate)
    assert gate.entered.wait(10)
    return gate, first


def test_alone_an_image_waits_for_nothing_even_where_the_wait_would_be_long(batcher):
    this, seen = batcher(max_wait_ms=60_000)
    assert this.submit(torch.tensor(3.0), doubled).result(10) == 6
    assert seen == [1]


def test_a_batch_waits_for_what_is_being_decoded_and_no_longer(batcher):
    this, seen = batcher(max_wait_ms=60_000)
    with this.expecting():
        first = this.submit(torch.tensor(1.0), doubled)
        time.sleep(0.05)
        assert not first.done()
        second = this.submit(torch.tensor(2.0), doubled)
    assert (first.result(10), second.result(10)) == (2, 4)
    assert seen == [2]
    short, seen = batcher(max_wait_ms=20)
    with short.expecting():  # for something that never comes
        assert short.submit(torch.tensor(1.0), doubled).result(10) == 2
    assert seen == [1]


def test_what_stands_together_in_the_queue_is_one_batch_if_it_is_alike(batcher):
    this, seen = batcher(max_batch=3)
    gate, first = occupied(this)
    alike = [this.submit(torch.tensor(float(i)), doubled) for i in range(4)]
    wider = [this.submit(torch.full((2,), float(i)), doubled) for i in range(2)]
    other = [this.submit(torch.tensor(5.0), lambda batch: (batch + 1).tolist()) for _ in range(2)]
    gate.open.set()
    assert [job.result(10) for job in alike] == [0, 2, 4, 6]
    assert [job.result(10) for job in wider] == [[0, 0], [2, 2]]
    assert [job.result(10) for job in other] == [6, 6]
    assert first.result(10) == 0
    this.close()
    assert seen == [1, 3, 1, 2, 1, 1]  # two functions are two kinds of work


def test_what_was_cancelled_is_not_done(batcher):
    this, seen = batcher()
    gate, _ = occupied(this)
    late, kept = this.submit(torch.tensor(1.0), doubled), this.submit(torch.tensor(2.0), doubled)
    assert late.cancel()
    gate.open.set()
    assert kept.result(10) == 4
    this.close()
    assert seen == [1, 1]


def test_what_was_cancelled_does_not_pile_up_behind_a_long_batch(batcher):
    this, seen = batcher(capacity=20)
    gate, _ = occupied(this)
    kept = this.submit(torch.tensor(2.0), doubled)
    for _ in range(200):
        this.submit(torch.tensor(1.0), doubled).cancel()
        assert this.queued <= 20
    gate.open.set()
    assert kept.result(10) == 4
    this.close()
    assert seen == [1, 1]


def test_an_error_is_that_of_its_own_job(batcher):
    this, _ = batcher()

    def picky(batch):
        if bool((batch < 0).any()):
            raise InputError("negative.")
        if bool((batch > 9).any()):
            raise KeyError("inside")
        return batch.tolist()

    gate, _ = occupied(this)
    jobs = [this.submit(torch.tensor(float(value)), picky) for value in (1, -1, 2, 10)]
    gate.open.set()
    wait(jobs, 10)
    assert (jobs[0].result(), jobs[2].result()) == (1, 2)
    assert jobs[1].exception().kind.name == "refused-by-classifier"
    assert jobs[1].exception().context == "negative."
    assert jobs[3].exception().kind.name == "internal"
    assert "inside" not in jobs[3].exception().detail
    assert this.submit(torch.tensor(3.0), doubled).result(10) == 6


def test_closing_does_what_was_taken_and_takes_no_more(batcher):
    this, seen = batcher(max_batch=2, max_wait_ms=60_000)
    gate, _ = occupied(this)
    jobs = [this.submit(torch.tensor(float(i)), doubled) for i in range(5)]
    closing = threading.Thread(target=this.close)
    closing.start()
    while this.alive:
        time.sleep(0.001)
    with pytest.raises(Problem, match="not ready: It is stopping"):
        this.submit(torch.tensor(1.0), doubled)
    with pytest.raises(Problem, match="stopping"), this.places() as places:
        places.take(1)
    gate.open.set()
    closing.join(10)
    assert [job.result(0) for job in jobs] == [0, 2, 4, 6, 8]
    assert seen == [1, 2, 2, 1]


def test_places_come_back_whatever_happens(batcher):
    this, _ = batcher(capacity=3, max_images=2)
    with this.places() as places:
        places.take(1)
        places.take(2)
        assert this.present == 3
        with pytest.raises(Problem, match="3 images, of 3 at most") as full, this.places() as others:
            others.take(1)
        assert full.value.headers == {"Retry-After": "1"}
    assert this.present == 0
    with pytest.raises(ZeroDivisionError), this.places() as places:
        places.take(3)
        raise ZeroDivisionError
    assert this.present == 0
