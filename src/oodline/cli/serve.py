"""`oodline serve`: a fitted file as a service, with a page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oodline.cli.options import Json, ModelOptions, load_classifier, show_warnings
from oodline.errors import DataError, SettingError
from oodline.serve import ServeSettings

_MODEL, _SETTINGS = ModelOptions(), ServeSettings()

TOKEN = "OODLINE_TOKEN"
"""Environment variable that holds the token."""


def serve(
    guard: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    detector: str | None = None,
    token_file: Path | None = None,
    model: ModelOptions = _MODEL,
    settings: Annotated[ServeSettings, Parameter(name="*")] = _SETTINGS,
    json: Json = False,
) -> None:
    """Serve a fitted file over HTTP: verdicts and explanations of images, metrics, and a page at /.

    SIGTERM and Ctrl-C end it when everything that it accepted is answered. A token that clients must send as
    "Authorization: Bearer TOKEN" is read from the environment variable OODLINE_TOKEN or from --token-file.

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
        A file that holds the token.
    json
        Print one JSON document once it listens, and nothing else on standard output.
    """
    from oodline.artifact import read_artifact
    from oodline.drift import DriftMonitor
    from oodline.guard import Guard
    from oodline.serve import create_app, run

    show_warnings()
    token = _token(token_file)
    loaded = load_classifier(model, read_artifact(guard))
    this = Guard.load(
        guard,
        loaded.classifier,
        detector,
        class_names=loaded.class_names,
        allow_other_weights=model.allow_other_weights,
    )
    monitor = None if this.calibration is None else DriftMonitor(this.calibration)
    app = create_app(this, loaded.preprocessing, settings, token=token, monitor=monitor)
    if host not in ("127.0.0.1", "::1", "localhost") and token is None:
        print(f"warning: {host} may be reached from other machines, and no token is asked for.", file=sys.stderr)

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


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(TOKEN) or None
    try:
        token = path.read_text().strip()
    except (OSError, ValueError) as error:
        raise DataError(f"the token file {path} cannot be read: {error}.") from error
    if not token:
        raise SettingError(f"the token file {path} is empty. Write a token into it, such as of `openssl rand -hex 32`.")
    return token
