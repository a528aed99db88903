"""What a service takes at most, how long it waits, and whom it answers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from pathlib import Path

from oodline.errors import SettingError


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a service, the same from Python and from the command line. Each limit has a refusal that names it.

    Raises
    ------
    SettingError
        A limit is not positive, a request could never get in, a name of a host is none, or half of TLS is missing.

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
    """Width times height of an image, read from its header before it is decoded, and of all images that are being
    decoded at a time."""
    max_input: int = 1_000_000
    """Where the preprocessing states no size: width times height of what one pass of the classifier sees, one image or
    a batch."""
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
    max_connections: int = 1000
    """Connections open at a time, fewer where the limit of open files leaves fewer; for one on top, the one that has
    kept the service waiting longest is closed."""
    header_timeout: float = 10.0
    """Seconds in which a client must have sent the header of its request."""
    allowed_host: tuple[str, ...] = ()
    """Names under which clients reach the service, such as ood.example.org or *.example.org, beside addresses and
    localhost; * is every name."""
    access_log: bool = False
    """Write one line for each request to standard error."""
    tls_cert: Path | None = None
    """PEM file of the certificate chain, to serve over HTTPS; read at the start."""
    tls_key: Path | None = None
    """PEM file of its private key, without a passphrase."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or field.name in ("max_wait_ms", "access_log"):
                continue
            if not 0 < value < inf:
                raise SettingError(f"the service needs {field.name} above 0, and finite; {value:g} is not.")
        if not 0 <= self.max_wait_ms < inf:
            raise SettingError(f"the service needs max_wait_ms of at least 0; {self.max_wait_ms:g} is not.")
        for small, large in (("max_images", "capacity"), ("max_body", "max_memory")):
            if getattr(self, small) > getattr(self, large):
                raise SettingError(
                    f"{small}={getattr(self, small)} is above {large}={getattr(self, large)}, so that a request as "
                    f"large as it may be would never get in. Raise {large}, or lower {small}."
                )
        for name in self.allowed_host:
            if not name.removeprefix("*.") or "/" in name or name.removeprefix("*.").strip() != name.removeprefix("*."):
                raise SettingError(
                    f"`allowed_host` must be names of hosts, such as ood.example.org; got {name!r}. Leave out scheme, "
                    "port and path."
                )
        if (self.tls_cert is None) != (self.tls_key is None):
            there, missing = ("tls_cert", "tls_key") if self.tls_key is None else ("tls_key", "tls_cert")
            raise SettingError(f"`{missing}` must be given with {there}; got {there} alone. Give both, or neither.")
