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
from oodline.guard.overlay import pictures_of
from oodline.model.eval_mode import evaluating
from oodline.preprocessing.preprocessing import Preprocessing
from oodline.scoring.drift import DriftMonitor
from oodline.serve.batching import Batcher, Places, Work
from oodline.serve.budget import Budget
from oodline.serve.forms import Upload
from oodline.serve.images import has_fixed_size, load_image, open_image, pixels_to_decode
from oodline.serve.metrics import ServeMetrics
from oodline.serve.problems import BODY_TOO_SLOW, CLIENT_LEFT, TOO_MANY_IMAGES, TOO_SLOW, UNREADABLE_IMAGE, Problem
from oodline.serve.settings import ServeSettings
from oodline.serve.uploads import Body, Memory


class GuardService:
    """A guard that answers requests, many at a time; its model is in evaluation mode until it is closed.

    Parameters
    ----------
    guard : Guard
        Calibrated.
    preprocessing : Preprocessing, optional
        From image to input. If omitted, the guard's own.
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

    def __init__(
        self,
        guard: Guard,
        preprocessing: Preprocessing | None = None,
        settings: ServeSettings | None = None,
        monitor: DriftMonitor | None = None,
    ) -> None:
        if guard.calibration is None:
            raise NotFittedError("the guard has no threshold yet. Call guard.calibrate(held_out_loader) first.")
        known = guard.preprocessing if preprocessing is None else Preprocessing.of(preprocessing)
        if known is None:
            raise SettingError("the guard has no preprocessing for images. Pass a Preprocessing.")
        self.guard = guard
        self.preprocessing = known
        self.settings = settings or ServeSettings()
        self.metrics = ServeMetrics(guard, monitor)
        # held open, so that not every batch walks over all modules to see what mode they are in
        self._evaluating = ExitStack()
        self._evaluating.enter_context(evaluating(guard.classifier.model))
        self._memory = Memory(self.settings.max_memory)
        self._pixels = Budget(self.settings.max_pixels)
        self._decoders = ThreadPoolExecutor(self.settings.decoders, thread_name_prefix="oodline decoder")
        most = inf if has_fixed_size(known) else self.settings.max_input
        self._batcher = Batcher(self.settings, self.metrics.batch, most)
        self.metrics.watch(lambda: self._batcher.queued, lambda: self._batcher.present)

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self._batcher.alive

    async def verdicts(self, request: Request) -> list[dict[str, Any]]:
        """Score the images of a request.

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
        uploads, results = await self._answer(request, self._judge, self.settings.max_images)
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

    async def _answer(self, request: Request, work: Work, most: int) -> tuple[Sequence[Upload], list[Any]]:
        limit, arrived = self.settings.timeout, False
        try:
            async with asyncio.timeout(limit):
                with self._batcher.places() as places, Body(request, self.settings, self._memory) as body:
                    places.take(1)  # before anything is read
                    uploads = await body.images()
                    arrived = True
                    return uploads, await self._results(request, uploads, work, most, places)
        except TimeoutError as error:
            if arrived:
                detail = f"It was not there after {limit:g} s (timeout)."
                raise Problem(TOO_SLOW, detail, "Try again later, or send fewer images at a time.") from error
            detail = f"It was not complete after {limit:g} s (timeout)."
            raise Problem(BODY_TOO_SLOW, detail, "Send smaller images, or use a faster connection.") from error

    async def _results(
        self, request: Request, uploads: Sequence[Upload], work: Work, most: int, places: Places
    ) -> list[Any]:
        if len(uploads) > most:
            raise Problem(TOO_MANY_IMAGES, f"{len(uploads)} were sent.", f"Send at most {most} at a time.")
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

    async def _all(self, uploads: Sequence[Upload], work: Work) -> list[Any]:
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
            return self.preprocessing(load_image(image, self.settings))
        except OodlineError as error:  # it was decoded, but says nothing that the classifier could see
            raise Problem(UNREADABLE_IMAGE, str(error), "Send an image of 8 bits per channel.") from error

    def _judge(self, inputs: Tensor) -> list[dict[str, Any]]:
        rows = self.guard(inputs).rows()
        self.metrics.verdicts(rows)
        return rows

    def _explain(self, inputs: Tensor, top: int) -> list[dict[str, Any]]:
        explained = self.guard.explain(inputs, top=top)
        rows = [{**explanation.to_dict(), "pictures": pictures_of(explanation)} for explanation in explained]
        self.metrics.verdicts(rows)
        return rows


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
