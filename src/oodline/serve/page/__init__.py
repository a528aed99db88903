"""The page: static files, served as they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Response

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`."""
    for path, (name, kind) in FILES.items():
        content = files(__name__).joinpath(name).read_bytes()
        app.add_api_route(path, _served(content, kind), include_in_schema=False)


def _served(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def served() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return served
