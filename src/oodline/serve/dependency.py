"""`verdicts`: a dependency for FastAPI that gives verdicts inside an existing service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request

from oodline.guard.guard import Guard
from oodline.preprocessing.kinds import AnyPreprocessing
from oodline.serve.settings import ServeSettings
from oodline.serve.text_service import service_for


def verdicts(
    guard: Guard, preprocessing: AnyPreprocessing | None = None, settings: ServeSettings | None = None
) -> Callable[[Request], Awaitable[list[dict[str, Any]]]]:
    """A FastAPI dependency: the verdicts on the images, or texts, of a request.

    It reads the body, raw image, form or JSON of texts, within the limits, and judges in batches with other requests,
    as `oodline serve` does. Refusals are `HTTPException`. In Starlette, await it with the request. Where the service
    has the tensor already, `guard(x)` is all that is needed.

    Parameters
    ----------
    guard : Guard
        Calibrated.
    preprocessing : Preprocessing, optional
        From image to input. If omitted, the guard's own.
    settings : ServeSettings, optional
        The limits.

    Returns
    -------
    callable
        From a request to one dict per image: a row of `Verdict.rows`, or, where one of several cannot be judged, its
        `problem`.

    Examples
    --------
    >>> from io import BytesIO
    >>> from typing import Annotated
    >>> import httpx, asyncio
    >>> from fastapi import Depends, FastAPI
    >>> from PIL import Image
    >>> from oodline.testing import toy_image_guard
    >>> app = FastAPI()
    >>> judged = verdicts(toy_image_guard())
    >>> @app.post("/classify")
    ... async def classify(found: Annotated[list[dict], Depends(judged)]):
    ...     return [row["class_name"] if not row["is_ood"] else "unknown" for row in found]

    >>> file = BytesIO()
    >>> Image.new("RGB", (8, 8), "red").save(file, "PNG")
    >>> async def ask():
    ...     async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
    ...         return await client.post("/classify", content=file.getvalue(), headers={"content-type": "image/png"})
    >>> asyncio.run(ask()).json()
    ['red']
    """
    service = service_for(guard, preprocessing, settings)

    async def judged(request: Request) -> list[dict[str, Any]]:
        return await service.verdicts(request)

    return judged
