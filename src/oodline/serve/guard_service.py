"""`GuardService`: from a request to verdicts: read, decode, and judge in a batch, within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from math import inf
from typing import Any

from fastapi import Request
from PIL import Image
from torch import Tensor

from oodline.errors import NotFittedError, OodlineError, SettingError
from oodline.guard.guard import Guard
from oodline.guard.map_overlay import pictures_of
from oodline.guard.row_verdict import RowVerdict
from oodline.model.eval_mode import evaluating
from oodline.model.rows.per_input import Drawn
from oodline.preprocessing.kinds import AnyPreprocessing, preprocessing_of
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.scoring.drift import DriftMonitor
from oodline.serve.batching import Batcher, Places, Work
from oodline.serve.budget import Budget
from oodline.serve.forms import Upload
from oodline.serve.images import FORMATS, has_fixed_size, load_image, open_image, pixels_to_decode
from oodline.serve.maps import MAPS, MapForm, maps_of
from oodline.serve.metrics import ServeMetrics
from oodline.serve.problems import (
    BODY_TOO_SLOW,
    CLIENT_LEFT,
    MALFORMED_FORM,
    TOO_MANY_IMAGES,
    TOO_MANY_PIXELS,
    TOO_SLOW,
    UNREADABLE_IMAGE,
    Problem,
)
from oodline.serve.settings import ServeSettings
from oodline.serve.uploads import Body, Memory

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "application/octet-stream")


class GuardService:
    """A guard that answers requests, many at a time; its model is in evaluation mode until it is closed.

    Parameters
    ----------
    guard : Guard
        Calibrated.
    preprocessing : Preprocessing, optional
        From image to input. If omitted, the guard's own. `TextService` takes that of texts.
    settings : ServeSettings
        The limits.
    monitor : DriftMonitor, optional
        Shown every verdict.

    Raises
    ------
    NotFittedError
        The guard is not calibrated.
    SettingError
        No preprocessing is known, or the class names are not those of the classifier.
    """

    unit = "images"
    one = "an image"
    """What it judges, in words."""

    problems = (MALFORMED_FORM, TOO_MANY_IMAGES, UNREADABLE_IMAGE, TOO_MANY_PIXELS)
    """Refusals of its own, beside those of every service: malformed, too many, unreadable, too large."""

    def __init__(
        self,
        guard: Guard,
        preprocessing: AnyPreprocessing | None = None,
        settings: ServeSettings | None = None,
        monitor: DriftMonitor | None = None,
    ) -> None:
        if guard.calibration is None:
            raise NotFittedError("the guard has no threshold yet. Call guard.calibrate(held_out_loader) first.")
        if guard.classifier.rows is not None and isinstance(guard.classifier.rows.per_input, Drawn):
            raise SettingError(
                "`promise` must be 'image' for a guard of boxes that is served; got 'box', whose images have no score "
                "that held-out ones could be shown beside. Fit it with Boxes(promise='image')."
            )
        known = guard.preprocessing if preprocessing is None else preprocessing_of(preprocessing)
        if known is None:
            raise SettingError("the guard has no preprocessing for images. Pass a Preprocessing.")
        self.guard = guard
        self.preprocessing: Any = known
        self.settings = settings or ServeSettings()
        self.metrics = ServeMetrics(guard, monitor)
        # held open, so that not every batch walks over all modules to see what mode they are in
        self._evaluating = ExitStack()
        self._evaluating.enter_context(evaluating(guard.classifier.model))
        self._memory = Memory(self.settings.max_memory)
        self._pixels = Budget(self.settings.max_pixels)
        self._decoders = ThreadPoolExecutor(self.settings.decoders, thread_name_prefix="oodline decoder")
        most = self.settings.max_input if isinstance(known, Preprocessing) and not has_fixed_size(known) else inf
        # one object each: images of different requests are judged together where their work is the same
        self._works: dict[MapForm, Work] = {"none": self._judge}
        self._works |= {form: partial(self._mapped, form) for form in MAPS}
        self._batcher = Batcher(self.settings, self.metrics.batch, most, one=self.one)
        self.metrics.watch(lambda: self._batcher.queued, lambda: self._batcher.present)

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self._batcher.alive

    def request_body(self, most: int) -> dict[str, Any]:
        """What a request may be, for OpenAPI."""
        file = {"type": "string", "format": "binary"}
        files = {"type": "array", "items": file, "minItems": 1, "maxItems": most}
        form = {"schema": {"type": "object", "properties": {"images": files}, "required": ["images"]}}
        return {**{kind: {"schema": file} for kind in IMAGE_TYPES}, "multipart/form-data": form}

    def limits(self) -> dict[str, Any]:
        """What a request may be, for /v1/info."""
        limits = {name: getattr(self.settings, name) for name in ("max_body", "max_images", "max_pixels")}
        return {**limits, "formats": list(FORMATS)}

    async def verdicts(self, request: Request, maps: MapForm = "none") -> list[dict[str, Any]]:
        """Score the images of a request; of a guard of pixels with maps, where they are asked for.

        Returns
        -------
        list of dict
            One per image, in order, with its `name`: a row of the verdict, or, where several were sent and this one
            cannot be judged, a `problem`.

        Raises
        ------
        Problem
            The request is refused as a whole, or its only image is.
        """
        uploads, results = await self._answer(request, self._works[maps], self.settings.max_images)
        if len(results) == 1 and isinstance(results[0], Problem):
            raise results[0]
        found = []
        for upload, result in zip(uploads, results, strict=True):
            if isinstance(result, Problem):
                self.metrics.rejection(result)
                result = {"problem": result.document()}
            found.append({"name": upload.name, **result})
        return found

    async def explanation(self, request: Request, top: int) -> dict[str, Any]:
        """Explain the verdict on the one image of a request.

        Raises
        ------
        Problem
            As `verdicts`, or there is more than one image.
        """
        _, [result] = await self._answer(request, partial(self._explain, top=top), 1)
        if isinstance(result, Problem):
            raise result
        found: dict[str, Any] = result
        return found

    def warm_up(self) -> None:
        """Score a grey image once, so that the first request does not pay for it, and a wrong preprocessing shows.

        Only where the preprocessing says something of the size that the classifier takes.

        Raises
        ------
        InputError
            The classifier refuses what the preprocessing makes.
        """
        if self.preprocessing.geometry:
            grey = Image.new("RGB", (256, 256), "grey")
            self.guard(self.preprocessing(grey).unsqueeze(0))

    def close(self) -> None:
        """Answer what was taken, then end its threads."""
        self._batcher.close()
        self._decoders.shutdown()
        self._evaluating.close()

    async def _answer(self, request: Request, work: Work, most: int) -> tuple[Sequence[Any], list[Any]]:
        limit, arrived = self.settings.timeout, False
        try:
            async with asyncio.timeout(limit):
                with self._batcher.places() as places, Body(request, self.settings, self._memory) as body:
                    places.take(1)  # before anything is read
                    uploads = await self._uploads(body)
                    arrived = True
                    return uploads, await self._results(request, uploads, work, most, places)
        except TimeoutError as error:
            if arrived:
                detail = f"It was not there after {limit:g} s (timeout)."
                raise Problem(TOO_SLOW, detail, f"Try again later, or send fewer {self.unit} at a time.") from error
            detail = f"It was not complete after {limit:g} s (timeout)."
            raise Problem(BODY_TOO_SLOW, detail, f"Send smaller {self.unit}, or use a faster connection.") from error

    async def _results(
        self, request: Request, uploads: Sequence[Any], work: Work, most: int, places: Places
    ) -> list[Any]:
        if len(uploads) > most:
            raise Problem(self.problems[1], f"{len(uploads)} were sent.", f"Send at most {most} at a time.")
        places.take(len(uploads) - 1)
        answers = asyncio.create_task(self._all(uploads, work))
        left = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait((answers, left), return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return answers.result()
            raise Problem(CLIENT_LEFT, "The connection was closed.", "Send the request again.")
        finally:  # what nobody waits for is not judged
            answers.cancel()
            left.cancel()

    async def _uploads(self, body: Body) -> Sequence[Any]:
        return await body.images()

    async def _all(self, uploads: Sequence[Any], work: Work) -> list[Any]:
        return await asyncio.gather(*(self._result(upload, work) for upload in uploads))

    async def _result(self, upload: Upload, work: Work) -> Any:
        loop = asyncio.get_running_loop()
        try:
            image = await self._open(upload.content)
            taken = await self._pixels.take(pixels_to_decode(image, self.preprocessing))
            decoded = self._decoders.submit(self._prepare, image)
            del image  # its pixels go as soon as they are decoded
            try:
                with self._batcher.expecting():
                    inputs = await asyncio.wrap_future(decoded)
                    waits = min(taken, inputs.shape[-2] * inputs.shape[-1])
                    self._pixels.give(taken - waits)
                    taken = waits
                    result = self._batcher.submit(inputs, work)
                return await asyncio.wrap_future(result)
            finally:  # a decoder does not stop in the middle for a client that has left
                decoded.add_done_callback(lambda _: loop.call_soon_threadsafe(self._pixels.give, taken))
        except Problem as problem:
            return problem

    async def _open(self, content: bytes) -> Image.Image:
        return await asyncio.wrap_future(self._decoders.submit(open_image, content, self.settings, self.preprocessing))

    def _prepare(self, image: Image.Image) -> Tensor:
        try:
            made: Tensor = self.preprocessing(load_image(image, self.settings))
            return made
        except OodlineError as error:  # it was decoded, but says nothing that the classifier could see
            raise Problem(UNREADABLE_IMAGE, str(error), "Send an image of 8 bits per channel.") from error

    def _judge(self, inputs: Any) -> list[dict[str, Any]]:
        rows = self.guard(inputs).rows()
        self.metrics.verdicts(rows)
        return rows

    def _mapped(self, form: MapForm, inputs: Any) -> list[dict[str, Any]]:
        verdict = self.guard(inputs)
        assert isinstance(verdict, RowVerdict)
        rows = verdict.rows()
        self.metrics.verdicts(rows)
        return [{**row, "maps": maps} for row, maps in zip(rows, maps_of(verdict, form), strict=True)]

    def _explain(self, inputs: Any, top: int) -> list[dict[str, Any]]:
        explained = self.guard.explain(inputs, top=top)
        rows = [{**explanation.to_dict(), "pictures": pictures_of(explanation)} for explanation in explained]
        self.metrics.verdicts(rows)
        return rows


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
