"""Export a drift monitor's report as Prometheus metrics, which `deploy/grafana/oodline.json` plots."""

from __future__ import annotations

from typing import Any

from oodline.errors import DataError, missing_extra
from oodline.scoring.drift import DriftReport

GAUGES = {
    "oodline_drift_window_rate": ("rate", "Share of flagged inputs in the window"),
    "oodline_drift_window_rate_low": ("low", "Lower end of its 95 % interval"),
    "oodline_drift_window_rate_high": ("high", "Upper end of its 95 % interval"),
    "oodline_drift_promised_rate": ("promised", "False-alarm rate that the calibration promises"),
    "oodline_drift_evidence": ("evidence", "Evidence of drift: 1 is none"),
    "oodline_drift_evidence_limit": ("limit", "Evidence at which the monitor alarms: 1/alpha"),
}
"""Metric to the field of `DriftReport` it shows, and what it means."""


class DriftMetrics:
    """The metrics of one monitor in one registry.

    Parameters
    ----------
    registry : prometheus_client.CollectorRegistry
        Where to register them.

    Raises
    ------
    MissingExtraError
        prometheus-client is not installed.

    Examples
    --------
    >>> from prometheus_client import CollectorRegistry
    >>> registry = CollectorRegistry()
    >>> DriftMetrics(registry).show(DriftReport(500, 25, 500, 0.05, 0.03, 0.07, 0.05, 1.2, 2.5, 100.0, None))
    >>> registry.get_sample_value("oodline_drift_window_rate")
    0.05
    """

    def __init__(self, registry: Any) -> None:
        try:
            from prometheus_client import Counter, Gauge
        except ImportError as error:
            raise missing_extra("prometheus-client", "serve", "Prometheus metrics") from error
        self._inputs = Counter("oodline_drift_inputs", "Inputs that the monitor has seen", registry=registry)
        self._alarm = Gauge("oodline_drift_alarm", "Whether the monitor has alarmed: 0 or 1", registry=registry)
        self._gauges = {field: Gauge(name, meaning, registry=registry) for name, (field, meaning) in GAUGES.items()}
        self._shown = 0

    def show(self, report: DriftReport) -> None:
        """Set the metrics to what a report says."""
        self._inputs.inc(report.seen - self._shown)
        self._shown = report.seen
        self._alarm.set(report.alarm_at is not None)
        for field, gauge in self._gauges.items():
            gauge.set(getattr(report, field))


def serve_drift_metrics(port: int) -> DriftMetrics:
    """Serve new metrics on 127.0.0.1 for as long as the process lives.

    Raises
    ------
    MissingExtraError
        prometheus-client is not installed.
    DataError
        The port cannot be listened on.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise missing_extra("prometheus-client", "serve", "Prometheus metrics") from error
    registry = CollectorRegistry()
    metrics = DriftMetrics(registry)
    try:
        start_http_server(port, "127.0.0.1", registry)
    except (OSError, OverflowError) as error:
        raise DataError(f"could not serve metrics on 127.0.0.1:{port}: {error}. Choose another port.") from error
    return metrics
