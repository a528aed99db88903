"""`oodline serve`: serve a guard file over HTTP, with a web page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oodline.cli.checks import load_detectors
from oodline.cli.options import DetectorsFrom, Json, ModelOptions, load_classifier
from oodline.cli.parameters import FileDetector
from oodline.cli.printing import say
from oodline.cli.running import RunOptions
from oodline.serve import ServeSettings

_MODEL, _SETTINGS, _RUN = ModelOptions(), ServeSettings(), RunOptions()

TOKEN = "OODLINE_TOKEN"
"""Environment variable that holds the token."""

METRICS_TOKEN = "OODLINE_METRICS_TOKEN"
"""Environment variable that holds the token of /metrics."""


def serve(
    guard: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    detector: FileDetector = None,
    token_file: Path | None = None,
    metrics_token_file: Path | None = None,
    model: ModelOptions = _MODEL,
    settings: Annotated[ServeSettings, Parameter(name="*")] = _SETTINGS,
    running: RunOptions = _RUN,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Serve a guard file over HTTP: verdicts and explanations of images, metrics, and a web page at /.

    On SIGTERM or Ctrl-C the service answers the requests it has accepted, then stops. To require a token, sent as
    "Authorization: Bearer TOKEN", set the environment variable OODLINE_TOKEN or pass --token-file; for another one for
    /metrics, OODLINE_METRICS_TOKEN or --metrics-token-file. On a network that others can read, pass --tls-cert and
    --tls-key, or put a proxy with TLS in front.

    Parameters
    ----------
    guard
        A guard file with a threshold, written by `oodline fit --calibrate`.
    host
        Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for all machines.
    port
        Port to listen on; 0 for any free one.
    token_file
        A file of accepted tokens, one per line, read again for every request. If omitted, OODLINE_TOKEN; if that is not
        set, no token is required.
    metrics_token_file
        The same for /metrics. If omitted, OODLINE_METRICS_TOKEN; if that is not set, the tokens of the service.
    json
        Print one JSON document on standard output once the service listens, and nothing else.
    """
    load_detectors(detectors_from)

    from oodline.guard.artifact import read_artifact
    from oodline.guard.guard import Guard
    from oodline.scoring.drift import DriftMonitor
    from oodline.serve import create_app, run
    from oodline.serve.running import is_local

    running.show_warnings()
    token, metrics_token = token_file or _of_environment(TOKEN), metrics_token_file or _of_environment(METRICS_TOKEN)
    loaded = load_classifier(model, read_artifact(guard), running=running)
    served = Guard.load(
        guard,
        loaded.classifier,
        detector,
        class_names=loaded.class_names,
        allow_other_weights=model.allow_other_weights,
    )
    monitor = None if served.calibration is None else DriftMonitor(served.calibration)
    app = create_app(served, loaded.preprocessing, settings, token=token, metrics_token=metrics_token, monitor=monitor)
    if not is_local(host):
        if token is None:
            say(
                f"warning: {host} may be reached from other machines, and no token is required. Pass --token-file.",
                file=sys.stderr,
            )
        if settings.tls_cert is None:
            say(
                f"warning: connections to {host} are not encrypted. Pass --tls-cert and --tls-key, or put a proxy "
                "with TLS in front.",
                file=sys.stderr,
            )

    def listening(url: str) -> None:
        if json:
            import json as json_module

            say(
                json_module.dumps({"url": url, "detector": served.detector.name, "token": token is not None}),
                flush=True,
            )
        elif not running.quiet:
            say(
                f"'{served.detector.name}' serves at {url}: page at /, API in /openapi.json. Ctrl-C stops.",
                flush=True,
            )

    try:
        run(app, host, port, listening)
    except KeyboardInterrupt:
        sys.exit(130)


def _of_environment(name: str) -> str | None:
    return os.environ.get(name) or None
