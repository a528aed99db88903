"""Read the images of a request, in the body or in a form, or a document, and count the bytes as they arrive."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.requests import ClientDisconnect

from oodline.serve.forms import HOW, Form, Upload
from oodline.serve.problems import BODY_TOO_LARGE, CLIENT_LEFT, FULL, UNSUPPORTED_TYPE, Problem
from oodline.serve.settings import ServeSettings


class Memory:
    """How many bytes of bodies are held by all requests together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def hold(self, size: int) -> None:
        """Count `size` bytes more.

        Raises
        ------
        Problem
            They would be too many.
        """
        if self.held + size > self.limit:
            detail = f"{self.held} bytes of requests are being read or decoded, of {self.limit} at most (max_memory)."
            raise Problem(FULL, detail, "Try again in a second.", {"Retry-After": "1"})
        self.held += size

    def release(self, size: int) -> None:
        """Count `size` bytes less."""
        self.held -= size


class Body:
    """The body of a request, never longer than it may be; a context that holds its bytes in a `Memory`."""

    def __init__(self, request: Request, settings: ServeSettings, memory: Memory) -> None:
        self._request = request
        self._settings = settings
        self._memory = memory
        self._size = 0

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.release(self._size)
        self._size = 0

    async def images(self) -> list[Upload]:
        """Read the images.

        Raises
        ------
        Problem
            The body is too large, of another type, or a form that is malformed or holds no image or too many.
        """
        kind = self._kind("images are compressed already")
        try:
            if kind == "multipart/form-data":
                return await self._form()
            if kind.startswith("image/") or kind == "application/octet-stream":
                return [Upload(None, await self._whole())]
        except ClientDisconnect as error:
            raise Problem(CLIENT_LEFT, "The connection was closed.", "Send the request again.") from error
        raise _unsupported(kind, HOW)

    async def document(self, how: str) -> bytes:
        """Read a JSON document; `how` says what to send.

        Raises
        ------
        Problem
            The body is too large, or of another type.
        """
        kind = self._kind("it is small")
        if kind != "application/json":
            raise _unsupported(kind, how)
        try:
            return await self._whole()
        except ClientDisconnect as error:
            raise Problem(CLIENT_LEFT, "The connection was closed.", "Send the request again.") from error

    def _kind(self, why: str) -> str:
        headers = self._request.headers
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            detail = f"The body is encoded by {headers['content-encoding']!r:.80}."
            raise Problem(UNSUPPORTED_TYPE, detail, f"Send it as it is: {why}.")
        return headers.get("content-type", "").partition(";")[0].strip().lower()

    async def _whole(self) -> bytes:
        return b"".join([chunk async for chunk in self._chunks()])

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        limit = self._settings.max_body
        declared = self._request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise _too_large(f"It has {declared:.20} bytes; {limit} are allowed.")
        async for chunk in self._request.stream():
            if self._size + len(chunk) > limit:
                raise _too_large(f"It has more than {limit} bytes.")
            self._memory.hold(len(chunk))
            self._size += len(chunk)
            yield chunk

    async def _form(self) -> list[Upload]:
        form = Form(self._request.headers["content-type"], self._settings.max_images)
        async for chunk in self._chunks():
            form.feed(chunk)
        return form.uploads()


def _unsupported(kind: str, how: str) -> Problem:
    return Problem(UNSUPPORTED_TYPE, f"The content type is {kind!r:.80}." if kind else "No content type was sent.", how)


def _too_large(detail: str) -> Problem:
    return Problem(BODY_TOO_LARGE, detail, "Send a smaller image, or fewer at a time (max_body).")
