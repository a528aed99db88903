"""What a service takes at most, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf

from oodline.errors import SettingError


@dataclass(frozen=True)
class ServeSettings:
    """Limits of a service, each with a refusal that says its name.

    Raises
    ------
    SettingError
        A limit is not positive, or a request could never get in.

    Examples
    --------
    >>> ServeSettings(max_images=4).max_batch
    32
    """

    max_body: int = 16 * 2**20
    """Bytes of one request's body, counted while it arrives."""
    max_images: int = 16
    """Images of one request."""
    max_pixels: int = 32_000_000
    """Width times height of an image, read from its header before it is decoded."""
    max_batch: int = 32
    """Images that the classifier sees at a time."""
    max_wait_ms: float = 5.0
    """How long a batch waits for images that are being decoded; it waits for nothing else."""
    capacity: int = 128
    """Images in the service at a time, from their arrival to their answer; what comes on top is answered with 503."""
    max_memory: int = 256 * 2**20
    """Bytes of all bodies held at a time; what comes on top is answered with 503."""
    timeout: float = 30.0
    """Seconds from the arrival of a request to its answer; then it is answered with 408 or 504."""
    decoders: int = 2
    """Threads that decode images."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "max_wait_ms" and not 0 < value < inf:
                raise SettingError(f"the service needs {field.name} above 0, and finite; {value:g} is not.")
        if not 0 <= self.max_wait_ms < inf:
            raise SettingError(f"the service needs max_wait_ms of at least 0; {self.max_wait_ms:g} is not.")
        for small, large in (("max_images", "capacity"), ("max_body", "max_memory")):
            if getattr(self, small) > getattr(self, large):
                raise SettingError(
                    f"{small}={getattr(self, small)} is above {large}={getattr(self, large)}, so that a request as "
                    f"large as it may be would never get in. Raise {large}, or lower {small}."
                )
