"""Run the classifier in one thread, on batches of images from many requests."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from oodline.errors import InputError
from oodline.preprocessing.text import Text
from oodline.serve.problems import FULL, INTERNAL, REFUSED_BY_CLASSIFIER, STOPPING, Problem
from oodline.serve.settings import ServeSettings

LOG = logging.getLogger("oodline.serve")

Work = Callable[[Any], Sequence[Any]]
"""From a batch of N inputs, a tensor or a list of texts, to N results."""


@dataclass(frozen=True, eq=False)
class _Job:
    inputs: Tensor | Text
    work: Work
    result: Future[Any] = field(default_factory=Future)

    def joins(self, other: _Job) -> bool:
        return self.work == other.work and self.shape == other.shape

    @property
    def shape(self) -> Sequence[int]:
        """Texts of any length are one batch: they are padded in it."""
        return self.inputs.shape if isinstance(self.inputs, Tensor) else ()


class Places:
    """A request's places in a `Batcher`."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.held = 0

    def take(self, count: int) -> None:
        """Take `count` more.

        Raises
        ------
        Problem
            There are fewer places left, or the batcher is closed.
        """
        self._batcher._take(count)
        self.held += count


class Batcher:
    """A bounded queue before one thread that runs the classifier.

    The thread takes what is there, up to `max_batch` images, and waits at most `max_wait_ms` for more, and only while
    other images are being decoded: one image in an idle service waits for nothing. Jobs of the same work and shape that
    stand together in the queue become one batch.

    Parameters
    ----------
    settings : ServeSettings
        `max_batch`, `max_wait_ms` and `capacity`.
    observe : callable, optional
        Told the size of each batch and the seconds it took.
    max_pixels : float
        Height times width of all inputs of a batch, where it has more than one.
    one : str
        What an input is, in words.

    Examples
    --------
    >>> batcher = Batcher(ServeSettings())
    >>> batcher.submit(torch.ones(3), lambda batch: batch.sum(1).tolist()).result()
    3.0
    >>> batcher.close()
    """

    def __init__(
        self,
        settings: ServeSettings,
        observe: Callable[[int, float], None] | None = None,
        max_pixels: float = math.inf,
        *,
        one: str = "an image",
    ) -> None:
        self._one = one
        self._settings = settings
        self._max_pixels = max_pixels
        self._observe = observe
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._expected = 0
        self._present = 0
        self._closed = False
        self._seconds_an_image = 0.0
        self._thread = threading.Thread(target=self._serve, name="oodline classifier", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._thread.is_alive() and not self._closed

    @property
    def present(self) -> int:
        """Places that are taken."""
        return self._present

    @property
    def queued(self) -> int:
        """Images that wait for the classifier."""
        return len(self._queue)

    @contextmanager
    def places(self) -> Iterator[Places]:
        """Places for the images of one request, given back at the end."""
        places = Places(self)
        try:
            yield places
        finally:
            with self._changed:
                self._present -= places.held

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """An image is being decoded: a batch may wait for it a little."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify()

    def submit(self, inputs: Tensor | Text, work: Work) -> Future[Any]:
        """Ask for the result of one input (...), without the dimension of the batch; cancel it where it is late."""
        job = _Job(inputs, work)
        with self._changed:
            if self._closed:
                raise _stopping()
            self._queue.append(job)
            self._changed.notify()
        job.result.add_done_callback(lambda result: self._forget(job) if result.cancelled() else None)
        return job.result

    def close(self) -> None:
        """Take no more jobs, do those that were taken, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _forget(self, job: _Job) -> None:
        """Let go of the input of one that was cancelled."""
        with self._changed, suppress(ValueError):
            self._queue.remove(job)

    def _take(self, count: int) -> None:
        with self._changed:
            if self._closed:
                raise _stopping()
            if self._present + count > self._settings.capacity:
                seconds = max(1, math.ceil(self._present * self._seconds_an_image))
                inputs = f"{self._present} {self._one.split()[1]}s"
                detail = f"It holds {inputs}, of {self._settings.capacity} at most (capacity)."
                raise Problem(FULL, detail, f"Try again in {seconds} s.", {"Retry-After": str(seconds)})
            self._present += count

    def _serve(self) -> None:
        while batch := self._next():
            started = monotonic()
            self._run(batch)
            seconds = monotonic() - started
            self._seconds_an_image += 0.2 * (seconds / len(batch) - self._seconds_an_image)
            if self._observe is not None:
                self._observe(len(batch), seconds)

    def _next(self) -> list[_Job]:
        """The next batch; empty only at the very end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                deadline = monotonic() + self._settings.max_wait_ms / 1e3
                while 0 < len(self._queue) < self._settings.max_batch and self._expected and not self._closed:
                    if not self._changed.wait(deadline - monotonic()) and monotonic() >= deadline:
                        break
                if not self._queue:
                    return []
                batch = [self._queue.popleft()]
                most = min(self._settings.max_batch, self._max_pixels / max(1, math.prod(batch[0].shape[-2:])))
                while self._queue and len(batch) + 1 <= most and self._queue[0].joins(batch[0]):
                    batch.append(self._queue.popleft())
            # those whose request timed out are not worth a pass
            if batch := [job for job in batch if job.result.set_running_or_notify_cancel()]:
                return batch

    def _run(self, jobs: list[_Job]) -> None:
        try:
            results = jobs[0].work(_together([job.inputs for job in jobs]))
            for job, result in zip(jobs, results, strict=True):
                job.result.set_result(result)
        except Exception as error:  # the thread must outlive it
            if len(jobs) > 1:
                for job in jobs:  # one of them may have spoilt it for the others
                    self._run([job])
                return
            jobs[0].result.set_exception(_problem(error, self._one))


def _together(inputs: Sequence[Tensor | Text]) -> Any:
    tensors = [one for one in inputs if isinstance(one, Tensor)]
    return torch.stack(tensors) if tensors else list(inputs)


def _problem(error: Exception, one: str) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, InputError):
        return Problem(REFUSED_BY_CLASSIFIER, str(error), f"Send {one} like those that it was trained on.")
    LOG.error("the classifier failed", exc_info=error)
    return Problem(INTERNAL, "The classifier failed; the log of the service says how.", "Tell who runs the service.")


def _stopping() -> Problem:
    return Problem(STOPPING, "It is stopping.", "Try again in a few seconds.", {"Retry-After": "5"})
