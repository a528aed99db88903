"""The metrics show the report, and the dashboard draws the metrics that there are."""

import json
import re
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest

from oodline.errors import DataError
from oodline.scoring.calibration import calibrate
from oodline.scoring.drift import DriftMonitor
from oodline.scoring.drift_metrics import GAUGES, DriftMetrics, serve_drift_metrics

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "oodline.json"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_metrics_follow_the_report():
    registry = CollectorRegistry()
    metrics, monitor = DriftMetrics(registry), DriftMonitor(calibrate(torch.arange(99.0)), window=50)
    for score in (50.0, -1.0):
        report = monitor.update(torch.full((60,), score))
        metrics.show(report)
        assert registry.get_sample_value("oodline_drift_inputs_total") == report.seen
        assert registry.get_sample_value("oodline_drift_alarm") == (report.alarm_at is not None)
        for name, (field, _) in GAUGES.items():
            assert registry.get_sample_value(name) == getattr(report, field)
    assert 60 < report.alarm_at <= 120  # among the low scores


def test_metrics_are_served_on_this_machine_alone():
    port = free_port()
    metrics = serve_drift_metrics(port)
    metrics.show(DriftMonitor(calibrate(torch.arange(99.0))).update(torch.arange(30.0)))
    page = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    assert "oodline_drift_inputs_total 30.0" in page
    with pytest.raises(DataError, match=rf"could not serve metrics on 127.0.0.1:{port}"):
        serve_drift_metrics(port)


def test_the_dashboard_draws_every_metric_and_no_other():
    registry = CollectorRegistry()
    DriftMetrics(registry)
    page = generate_latest(registry).decode()
    there = {line.split()[0] for line in page.splitlines() if not line.startswith("#")} - {
        "oodline_drift_inputs_created"
    }
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [variable["query"] for variable in dashboard["templating"]["list"]]
    drawn = {name for text in expressions for name in re.findall(r"oodline_\w+", text)}
    assert {name for name in drawn if name.startswith("oodline_drift_")} == there
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["description"] for panel in dashboard["panels"])
