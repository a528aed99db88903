"""`oodline serve`: a fitted file as a service, with a page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oodline.cli.checks import load_detectors
from oodline.cli.options import DetectorsFrom, Json, ModelOptions, load_classifier, show_warnings
from oodline.serve import ServeSettings

_MODEL, _SETTINGS = ModelOptions(), ServeSettings()

TOKEN = "OODLINE_TOKEN"
"""Environment variable that holds the token."""

METRICS_TOKEN = "OODLINE_METRICS_TOKEN"
"""Environment variable that holds the token of /metrics."""


def serve(
    guard: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    detector: str | None = None,
    token_file: Path | None = None,
    metrics_token_file: Path | None = None,
    model: ModelOptions = _MODEL,
    settings: Annotated[ServeSettings, Parameter(name="*")] = _SETTINGS,
    detectors_from: DetectorsFrom = None,
    json: Json = False,
) -> None:
    """Serve a fitted file over HTTP: verdicts and explanations of images, metrics, and a page at /.

    SIGTERM and Ctrl-C end it when everything that it accepted is answered. A token that clients must send as
    "Authorization: Bearer TOKEN" is read from the environment variable OODLINE_TOKEN or from --token-file, and another
    for /metrics alone from OODLINE_METRICS_TOKEN or --metrics-token-file. Without TLS, let a proxy that ends it stand
    between the service and a network that others can read.

    Parameters
    ----------
    guard
        A file by `oodline fit`, with a calibration.
    host
        Address to listen on; 127.0.0.1 is reached from this machine alone, 0.0.0.0 from everywhere.
    port
        0 takes a free one.
    detector
        Which of several detectors of the file; the first if not given.
    token_file
        A file of tokens, one per line, read again for every request: any of them is accepted.
    metrics_token_file
        The same for /metrics, in place of --token-file.
    json
        Print one JSON document once it listens, and nothing else on standard output.
    """
    load_detectors(detectors_from)

    from oodline.guard.artifact import read_artifact
    from oodline.guard.guard import Guard
    from oodline.scoring.drift import DriftMonitor
    from oodline.serve import create_app, run
    from oodline.serve.running import is_local

    show_warnings()
    token, metrics_token = token_file or _of_environment(TOKEN), metrics_token_file or _of_environment(METRICS_TOKEN)
    loaded = load_classifier(model, read_artifact(guard))
    this = Guard.load(
        guard,
        loaded.classifier,
        detector,
        class_names=loaded.class_names,
        allow_other_weights=model.allow_other_weights,
    )
    monitor = None if this.calibration is None else DriftMonitor(this.calibration)
    app = create_app(this, loaded.preprocessing, settings, token=token, metrics_token=metrics_token, monitor=monitor)
    if not is_local(host):
        if token is None:
            print(f"warning: {host} may be reached from other machines, and no token is asked for.", file=sys.stderr)
        if settings.tls_cert is None:
            print(
                f"warning: what is sent to {host} can be read on its way. Pass --tls-cert and --tls-key, or "
                "put a proxy that ends TLS before it.",
                file=sys.stderr,
            )

    def listening(url: str) -> None:
        if json:
            import json as json_module

            print(
                json_module.dumps({"url": url, "detector": this.detector.name, "token": token is not None}), flush=True
            )
        else:
            print(f"'{this.detector.name}' serves at {url}: page at /, API in /openapi.json. Ctrl-C stops.", flush=True)

    try:
        run(app, host, port, listening)
    except KeyboardInterrupt:
        sys.exit(130)


def _of_environment(name: str) -> str | None:
    return os.environ.get(name) or None
