"""Error responses: one format for all (RFC 9457), with the fact, its context and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """A kind of refusal: its name in `type` and in the metrics, its HTTP status, and the fact."""

    name: str
    status: int
    title: str


MALFORMED_REQUEST = Kind("malformed-request", 400, "The request cannot be read")
MALFORMED_FORM = Kind("malformed-form", 400, "The form cannot be read")
CLIENT_LEFT = Kind("client-left", 400, "The client left before its answer was there")
UNAUTHORISED = Kind("unauthorised", 401, "A valid token is needed")
FOREIGN_ORIGIN = Kind("foreign-origin", 403, "Pages of other sites are not answered")
NOT_FOUND = Kind("not-found", 404, "There is nothing here")
NO_EXPLANATION = Kind("no-explanation", 404, "This guard does not explain")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "The method is not allowed here")
BODY_TOO_SLOW = Kind("body-too-slow", 408, "The body did not arrive in time")
BODY_TOO_LARGE = Kind("body-too-large", 413, "The body is too large")
TOO_MANY_IMAGES = Kind("too-many-images", 413, "There are too many images")
UNSUPPORTED_TYPE = Kind("unsupported-type", 415, "The type is not supported")
MISDIRECTED = Kind("misdirected", 421, "The request is for another host")
UNREADABLE_IMAGE = Kind("unreadable-image", 422, "The image cannot be read")
MALFORMED_JSON = Kind("malformed-json", 400, "The JSON document cannot be read")
TOO_MANY_TEXTS = Kind("too-many-texts", 413, "There are too many texts")
UNREADABLE_TEXT = Kind("unreadable-text", 422, "The text cannot be read")
TEXT_TOO_LONG = Kind("text-too-long", 422, "The text is too long")
TOO_MANY_PIXELS = Kind("too-many-pixels", 422, "The image has too many pixels")
REFUSED_BY_CLASSIFIER = Kind("refused-by-classifier", 422, "The classifier cannot judge the image")
INVALID_PARAMETER = Kind("invalid-parameter", 422, "A parameter is not valid")
HEADER_TOO_LARGE = Kind("header-too-large", 431, "The header of the request is too large")
INTERNAL = Kind("internal", 500, "Something went wrong in the service")
FULL = Kind("full", 503, "The service is full")
STOPPING = Kind("stopping", 503, "The service is not ready")
TOO_SLOW = Kind("too-slow", 504, "The answer took too long")


class ProblemDocument(BaseModel):
    """The body of every refusal (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="urn:oodline:problem: and the kind, which does not change between versions.")
    title: str = Field(description="The fact: the same words for each kind.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="The context: what was found in this request.")
    remedy: str = Field(description="What to do about it.")
    request_id: str | None = Field(None, description="The request's id, as in the header X-Request-ID and the log.")


class Problem(HTTPException):
    """A refusal, raised on purpose; in a FastAPI app without oodline's handlers it is an ordinary HTTP error.

    Parameters
    ----------
    kind : Kind
        What is wrong, and with it the status.
    detail, remedy : str
        The context and the remedy, each a sentence.
    headers : mapping of str to str, optional
        To add to the answer.

    Examples
    --------
    >>> Problem(NOT_FOUND, "There is no /v2.", "Look into /openapi.json.").document()["type"]
    'urn:oodline:problem:not-found'
    """

    def __init__(self, kind: Kind, detail: str, remedy: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(kind.status, f"{kind.title}: {detail} {remedy}", dict(headers or {}))
        self.kind = kind
        self.context = detail
        self.remedy = remedy

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """The body of the answer, ready for JSON."""
        return ProblemDocument(
            type=f"urn:oodline:problem:{self.kind.name}",
            title=self.kind.title,
            status=self.kind.status,
            detail=self.context,
            remedy=self.remedy,
            request_id=request_id,
        ).model_dump()

    def response(self, request_id: str | None = None) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.document(request_id), self.kind.status, self.headers, MEDIA_TYPE)


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of the refusals that a path may answer with, by status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        same = [k for k in kinds if k.status == kind.status]
        responses[kind.status] = {
            "description": ". ".join(k.title for k in same) + ".",
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"},
                    "examples": {k.name: {"value": _example(k)} for k in same},
                }
            },
        }
        if kind in (FULL, STOPPING):
            retry = {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}
            responses[kind.status]["headers"] = {"Retry-After": retry}
    return responses


def _example(kind: Kind) -> dict[str, Any]:
    return Problem(kind, "What was found in this request.", "What to do about it.").document("4f1d0c0e9b")
