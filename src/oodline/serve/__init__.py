"""Serve a guard over HTTP: as a service with a web page, or as a dependency of an existing FastAPI service.

Imported when used, so that the command line can read `ServeSettings` without FastAPI and PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oodline.errors import missing_extra
from oodline.serve.settings import ServeSettings

if TYPE_CHECKING:
    from oodline.serve.app import create_app
    from oodline.serve.dependency import verdicts
    from oodline.serve.running import run

_HOMES = {"create_app": "app", "run": "running", "verdicts": "dependency"}

_NEEDED = {
    "fastapi": "fastapi",
    "python-multipart": "python_multipart",
    "uvicorn": "uvicorn",
    "h11": "h11",
    "prometheus-client": "prometheus_client",
}

__all__ = ["ServeSettings", "create_app", "run", "verdicts"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package, module in _NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise missing_extra(package, "serve", "oodline serve and oodline.serve") from error
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
