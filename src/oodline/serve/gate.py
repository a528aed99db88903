"""Refuse requests that are malformed, for another host, or sent by the page of another site."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from oodline.serve.metrics import ServeMetrics
from oodline.serve.problems import FOREIGN_ORIGIN, MALFORMED_REQUEST, MISDIRECTED, Problem

CLOSE = {"Connection": "close"}


class Gate:
    """ASGI middleware that refuses a request before anything of it is read.

    A page of another site can make a browser send requests to any address, and by a name of its own that it lets point
    to this machine (DNS rebinding) it could read the answers. So a request has to name the service: by an address, by
    `localhost`, or by a name that is allowed; where it arrives at 127.0.0.1, by an address of this machine alone.

    Parameters
    ----------
    app : ASGI app
        What is behind it.
    metrics : ServeMetrics
        Counts the refusals.
    allowed : sequence of str
        Names of hosts; `*.example.org` allows all names below it, `*` every name.
    token : bool
        Whether a token is asked for, which no foreign page has: then, away from this machine, every name is heard
        unless some are allowed.
    """

    def __init__(self, app: ASGIApp, metrics: ServeMetrics, allowed: Sequence[str], token: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._allowed = tuple(name.lower().rstrip(".") for name in allowed)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and (problem := self._refusal(scope)):
            self._metrics.rejection(problem)
            await problem.response(scope["state"]["request_id"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and ("content-length" in headers or scope["http_version"] < "1.1"):
            detail = "It says the length of its body in two ways, or in one that HTTP/1.0 does not know."
            return Problem(MALFORMED_REQUEST, detail, "Send Content-Length, or Transfer-Encoding: chunked.", CLOSE)
        if not scope["path"].startswith("/"):
            return Problem(MALFORMED_REQUEST, "Its target is not a path.", "Begin it with a slash.", CLOSE)
        host = headers.get("host")
        server = (scope.get("server") or ("", 0))[0]
        if host is None or _address(server) is None:
            return None  # no browser leaves it out; and nobody rebinds a name to what is not an address
        if not self._is_here(_name(host), server):
            detail = f"It names the host {host!r:.100}, which this service is not known by."
            remedy = "Use its address, or start it with this name (allowed_host, --allowed-host)."
            return Problem(MISDIRECTED, detail, remedy, CLOSE)
        origin = headers.get("origin")
        if origin is not None and not self._is_own(origin, host):
            detail = f"It comes from the page {origin!r:.100}."
            return Problem(FOREIGN_ORIGIN, detail, "Send it from the service's own page, or from no browser.", CLOSE)
        return None

    def _is_here(self, name: str, server: str) -> bool:
        if name == "localhost" or _matches(name, self._allowed):
            return True
        local, address = _is_local(server), _address(name)
        if address is not None:
            return not local or address.is_loopback
        return not local and ((self._token and not self._allowed) or name == socket.gethostname().lower())

    def _is_own(self, origin: str, host: str) -> bool:
        try:
            where = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return where == host.lower() or _matches(_name(where), [one for one in self._allowed if one != "*"])


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return bool(name) and any(
        one in ("*", name) or (one.startswith("*.") and name.endswith(one[1:])) for one in patterns
    )


def _name(host: str) -> str:
    """The host of `host` or `host:port`, lower case and without brackets; empty where it is neither.

    >>> _name("LocalHost:8000"), _name("[::1]:80"), _name("a@b"), _name("a:b")
    ('localhost', '::1', '', '')
    """
    if any(c in host for c in "@/\\?# \t,") or not host.isascii():
        return ""
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "").rstrip(".") if parts.port is None or parts.port >= 0 else ""
    except ValueError:
        return ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _is_local(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_loopback
