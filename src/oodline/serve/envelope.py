"""Middleware around every response: request id, headers, timing, and no stack traces."""

from __future__ import annotations

import logging
import re
import uuid
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oodline.serve.logs import ACCESS
from oodline.serve.metrics import ServeMetrics
from oodline.serve.problems import INTERNAL, Problem

LOG = logging.getLogger("oodline.serve")

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""Of every answer: the page runs its own script and nothing else, nobody frames it, and nobody keeps a verdict."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Envelope:
    """ASGI middleware, outermost.

    A request's id is that of its header X-Request-ID, where that is 1 to 64 letters, digits, dots, dashes and
    underscores, else a new one.
    """

    def __init__(self, app: ASGIApp, metrics: ServeMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 0
        given = Request(scope).headers.get("x-request-id", "")
        scope.setdefault("state", {})["request_id"] = name = given if _ID.fullmatch(given) else uuid.uuid4().hex

        async def enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = name
                for key, value in HEADERS.items():
                    headers.setdefault(key, value)
            await send(message)

        self._metrics.requests.inc()
        try:
            await self._app(scope, receive, enveloped)
        except Exception:
            LOG.exception("request %s failed", name)
            if not status:
                problem = Problem(INTERNAL, "The log of the service says what.", "Tell who runs it the request's id.")
                self._metrics.rejection(problem)
                await problem.response(name)(scope, receive, enveloped)
        finally:
            self._metrics.requests.dec()
            path, seconds = getattr(scope.get("route"), "path", "other"), perf_counter() - started
            self._metrics.seconds.labels(path, str(status)).observe(seconds)
            if ACCESS.isEnabledFor(logging.INFO):
                client = (scope.get("client") or ("-",))[0]
                target = scope.get("raw_path", b"").decode("latin-1")  # as it was sent: it holds no line break
                ACCESS.info("%s %s %.200s %s %.1f ms %s", client, scope["method"], target, status, 1e3 * seconds, name)
