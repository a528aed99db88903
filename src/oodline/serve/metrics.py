"""Prometheus metrics of a service: requests, verdicts, latency, queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from oodline.guard.guard import Guard
from oodline.scoring.drift import DriftMonitor
from oodline.scoring.drift_metrics import DriftMetrics
from oodline.serve.problems import Problem

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
"""Of the held-out scores: the buckets of the histogram of scores."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServeMetrics:
    """The metrics of one service, in a registry of its own.

    Parameters
    ----------
    guard : Guard
        Whose verdicts are counted; calibrated.
    monitor : DriftMonitor, optional
        Shown every verdict, in the order in which they are given; its report is among the metrics.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, guard: Guard, monitor: DriftMonitor | None = None) -> None:
        self.registry = registry = CollectorRegistry()
        held_out = guard.calibration.scores if guard.calibration is not None else torch.zeros(1)
        places = torch.tensor(QUANTILES, dtype=held_out.dtype)
        buckets = sorted(set(torch.quantile(held_out, places).tolist()))

        def made(kind: Any, name: str, meaning: str, labels: tuple[str, ...] = (), **more: Any) -> Any:
            return kind(f"oodline_{name}", meaning, labels, registry=registry, **more)

        self._scores = made(
            Histogram, "score", "Scores; buckets end at quantiles of the held-out ones", buckets=buckets
        )
        self._verdicts = made(Counter, "verdicts", "Verdicts by predicted class", ("predicted",))
        self._alarms = made(Counter, "alarms", "Inputs flagged as OOD by predicted class", ("predicted",))
        labels = ("path", "status")
        self.seconds = made(Histogram, "request_seconds", "Time from arrival to answer", labels, buckets=SECONDS)
        self.requests = made(Gauge, "requests_in_flight", "Requests that are not yet answered")
        self._queue = made(Gauge, "queue_images", "Images that wait for the classifier")
        self._present = made(Gauge, "present_images", "Images in the service")
        self._batches = made(Histogram, "batch_images", "Images that the classifier saw at a time", buckets=BATCHES)
        self._model = made(Histogram, "batch_seconds", "Time of a batch in the classifier", buckets=SECONDS)
        self._rejections = made(Counter, "rejections", "Refused requests and images by reason", ("reason",))
        self._monitor = monitor
        self._drift = None if monitor is None else DriftMetrics(registry)
        if self._monitor is not None and self._drift is not None:
            self._drift.show(self._monitor.report)

    def watch(self, queued: Callable[[], int], present: Callable[[], int]) -> None:
        """Let gauges ask how many images wait and are there."""
        self._queue.set_function(queued)
        self._present.set_function(present)

    def batch(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(images)
        self._model.observe(seconds)

    def verdicts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count the verdicts of a batch, as `Verdict.rows` gives them; called by one thread only."""
        for row in rows:
            name = row["class_name"] or str(row["label"])
            if row["score"] is not None:
                self._scores.observe(row["score"])
            self._verdicts.labels(name).inc()
            self._alarms.labels(name).inc(row["is_ood"])
        if self._monitor is not None and self._drift is not None:
            judged = [row for row in rows if row["score"] is not None]
            scores = torch.tensor([row["score"] for row in judged], dtype=torch.float64)
            labels = torch.tensor([row["label"] for row in judged], dtype=torch.int64)
            self._drift.show(self._monitor.update(scores, labels))

    def rejection(self, problem: Problem) -> None:
        """Count a refusal."""
        self._rejections.labels(problem.kind.name).inc()

    def page(self) -> bytes:
        """What Prometheus reads."""
        page: bytes = generate_latest(self.registry)
        return page
