"""Create the service: a FastAPI app for a guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from oodline._version import __version__
from oodline.guard.guard import Guard
from oodline.model.rows.pixels import Pixels
from oodline.preprocessing.kinds import AnyPreprocessing
from oodline.scoring.drift import DriftMonitor
from oodline.serve import problems as p
from oodline.serve.envelope import Envelope
from oodline.serve.gate import Gate
from oodline.serve.guard_service import GuardService
from oodline.serve.info import describe_guard, explains, histogram
from oodline.serve.maps import MapForm
from oodline.serve.page import add_page
from oodline.serve.schemas import ExplanationRow, Health, Info, Predictions, ScoreHistogram
from oodline.serve.settings import ServeSettings
from oodline.serve.text_service import service_for
from oodline.serve.tokens import Tokens

_DESCRIPTION = """The class that a classifier returns for {unit}, and whether to trust it.

Every refusal is one `application/problem+json` document (RFC 9457)."""

_PREDICT = {
    "images": """One image as the body, or several files as `images` of a form; one entry each, in their order.

Where the only image cannot be judged, the request is refused. Where one of several cannot, its entry holds a
`problem` in place of the verdict, and the others are judged.""",
    "texts": """`texts` of a JSON document; one entry each, in their order.

Where the only text cannot be judged, the request is refused. Where one of several cannot, its entry holds a
`problem` in place of the verdict, and the others are judged.""",
}
_ALWAYS = (p.MALFORMED_REQUEST, p.FOREIGN_ORIGIN, p.MISDIRECTED, p.HEADER_TOO_LARGE)
_JUDGED = (p.REFUSED_BY_CLASSIFIER, p.INTERNAL, p.FULL, p.STOPPING, p.TOO_SLOW)


def create_app(
    guard: Guard,
    preprocessing: AnyPreprocessing | None = None,
    settings: ServeSettings | None = None,
    *,
    token: str | Sequence[str] | Path | None = None,
    metrics_token: str | Sequence[str] | Path | None = None,
    monitor: DriftMonitor | None = None,
) -> FastAPI:
    """Build the service.

    Parameters
    ----------
    guard : Guard
        Calibrated.
    preprocessing : Preprocessing or TextPreprocessing, optional
        From image, or texts, to inputs. If omitted, the guard's own.
    settings : ServeSettings, optional
        Its limits, and whom it answers.
    token : str, sequence of str or Path, optional
        What a client must send as `Authorization: Bearer TOKEN` for /v1 and /metrics: a token, one of several, or one
        of the lines of a file, which is read again for every request.
    metrics_token : str, sequence of str or Path, optional
        The same for /metrics alone, in place of `token`.
    monitor : DriftMonitor, optional
        Shown every verdict; its report is among the metrics.

    Raises
    ------
    NotFittedError
        The guard is not calibrated.
    SettingError
        No preprocessing is known, or a token is empty.
    DataError
        A file of tokens cannot be read.
    InputError
        The classifier refuses what the preprocessing makes.

    Examples
    --------
    >>> from oodline.testing import toy_image_guard
    >>> app = create_app(toy_image_guard())
    >>> sorted(app.openapi()["paths"])
    ['/healthz', '/metrics', '/readyz', '/v1/explain', '/v1/histogram', '/v1/info', '/v1/predict']
    """
    lock = _lock(token)
    metrics_lock = lock if metrics_token is None else _lock(metrics_token)
    service = service_for(guard, preprocessing, settings, monitor)
    calibration = guard.calibration
    assert calibration is not None  # the service has seen to it
    try:
        service.warm_up()
    except BaseException:
        service.close()
        raise

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="oodline",
        version=__version__,
        description=_DESCRIPTION.format(unit=service.unit),
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.add_middleware(Gate, metrics=service.metrics, allowed=service.settings.allowed_host, token=token is not None)
    app.add_middleware(Envelope, metrics=service.metrics)
    _add_problems(app, service)
    locked: dict[str, Any] = {"dependencies": lock}
    refused = (*_ALWAYS, p.UNAUTHORISED) if lock else _ALWAYS
    metrics_refused = (*_ALWAYS, p.UNAUTHORISED) if metrics_lock else _ALWAYS
    known = describe_guard(guard, calibration, service.limits(), service.unit)
    malformed, too_many, unreadable, too_large = service.problems
    upload = (
        malformed,
        p.BODY_TOO_SLOW,
        p.BODY_TOO_LARGE,
        too_many,
        p.UNSUPPORTED_TYPE,
        unreadable,
        too_large,
        *_JUDGED,
    )

    @app.post(
        "/v1/predict",
        summary=f"Score {service.unit}",
        response_model=Predictions,
        response_model_exclude_unset=True,  # labels and maps are there for guards that have them
        responses=p.documented(*upload, *refused, p.INVALID_PARAMETER),
        description=_PREDICT[service.unit],
        openapi_extra=_body(service, service.settings.max_images),
        **locked,
    )
    async def predict(
        request: Request,
        maps: Annotated[
            MapForm, Query(description="Of a guard of pixels: add maps, as PNG files in base64 or as nested lists.")
        ] = "none",
    ) -> Any:
        if maps != "none" and not isinstance(guard.classifier.rows, Pixels):
            kind = "input" if guard.classifier.rows is None else guard.classifier.rows.unit
            detail = f"This guard gives one decision per {kind}, and no map."
            raise p.Problem(p.INVALID_PARAMETER, detail, "Leave out `maps`.")
        return {"request_id": request.state.request_id, "verdicts": await service.verdicts(request, maps)}

    @app.post(
        "/v1/explain",
        summary=f"Score one {service.one.split()[1]}, and say which neurons contribute to it",
        response_model=ExplanationRow,
        response_model_exclude_unset=True,
        responses=p.documented(*upload, *refused, p.INVALID_PARAMETER, p.NO_EXPLANATION),
        openapi_extra=_body(service, 1),
        **locked,
    )
    async def explain(
        request: Request,
        top: Annotated[int, Query(ge=1, le=100, description="Number of neurons in each of the two lists.")] = 8,
    ) -> Any:
        """The neurons that the class expected and did not find, and those that it did not expect and found."""
        if not explains(guard):
            detail = f"The detector '{guard.detector.name}' keeps no contributions by class, or the head has layers."
            raise p.Problem(p.NO_EXPLANATION, detail, "Ask /v1/predict, or fit the file with LINe or with --neurons.")
        return {"request_id": request.state.request_id, **await service.explanation(request, top)}

    @app.get("/v1/info", summary="Detector, promise, classes, limits", responses=p.documented(*refused), **locked)
    async def info() -> Info:
        """What this service is, with a histogram of the held-out ID scores."""
        return Info.model_validate(known)

    @app.get(
        "/v1/histogram",
        summary="Held-out ID scores by predicted class",
        responses=p.documented(*refused, p.INVALID_PARAMETER),
        **locked,
    )
    async def scores(label: Annotated[int, Query(ge=0, description="The predicted class.")]) -> ScoreHistogram:
        """The scores that an image of this predicted class is compared with: all, unless the promise is by class."""
        if label >= known["classes"]:
            detail = f"`label` must be between 0 and {known['classes'] - 1}; got {label}."
            raise p.Problem(p.INVALID_PARAMETER, detail, "Ask for one of the classes.")
        return ScoreHistogram.model_validate(histogram(calibration, label))

    @app.get("/healthz", summary="Whether the process answers", responses=p.documented(*_ALWAYS))
    async def alive() -> Health:
        """Answers as long as the process does."""
        return Health(status="alive")

    @app.get("/readyz", summary="Whether requests are taken", responses=p.documented(*_ALWAYS, p.STOPPING))
    async def ready() -> Health:
        """503 once it stops."""
        if not service.ready:
            raise p.Problem(p.STOPPING, "It is stopping.", "Try again in a few seconds.", {"Retry-After": "5"})
        return Health(status="ready")

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **p.documented(*metrics_refused)},
        dependencies=metrics_lock,
    )
    async def metrics() -> Response:
        """Scores, alarms by predicted class, latency, queue, batches, refusals."""
        return Response(service.metrics.page(), media_type=service.metrics.content_type)

    add_page(app)
    return app


def _lock(token: str | Sequence[str] | Path | None) -> list[Any]:
    """The dependencies of a path that asks for a token; none where there is none."""
    return [] if token is None else [Depends(_check(Tokens(token)))]


def _check(tokens: Tokens) -> Callable[..., Awaitable[None]]:
    async def check(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        if given is None or not tokens.accept(given.credentials):
            what = "The token that was sent is not valid." if given else "No token was sent."
            remedy = "Send the header `Authorization: Bearer TOKEN`."
            raise p.Problem(p.UNAUTHORISED, what, remedy, {"WWW-Authenticate": "Bearer"})

    return check


def _body(service: GuardService, most: int) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": service.request_body(most)}}


def _add_problems(app: FastAPI, service: GuardService) -> None:
    def answer(request: Request, problem: p.Problem) -> Response:
        service.metrics.rejection(problem)
        return problem.response(request.state.request_id)

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, p.Problem):
            return answer(request, error)
        assert isinstance(error, HTTPException)
        what, headers = f"{request.method} {request.url.path}"[:200], dict(error.headers or {})
        if error.status_code == 405:
            problem = p.Problem(p.METHOD_NOT_ALLOWED, f"The request was {what}.", "See the header Allow.", headers)
        else:
            problem = p.Problem(p.NOT_FOUND, f"The request was {what}.", "See /openapi.json for all paths.", headers)
        return answer(request, problem)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name, message = first["loc"][-1], first["msg"]
        return answer(request, p.Problem(p.INVALID_PARAMETER, f"`{name}`: {message}.", "See /openapi.json."))

    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(RequestValidationError, invalid)
