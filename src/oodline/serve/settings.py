"""Settings of a service: limits, timeouts, host names, TLS."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from pathlib import Path

from oodline.errors import SettingError


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a service, the same in Python and on the command line. A request over a limit is refused by its name.

    Raises
    ------
    SettingError
        A limit is not positive, the largest request would exceed another limit, a host name is malformed, or one of
        `tls_cert` and `tls_key` is missing.

    Examples
    --------
    >>> ServeSettings(max_images=4).max_batch
    32
    """

    max_body: int = 16 * 2**20
    """Largest size of a request's body, in bytes."""
    max_images: int = 16
    """Largest number of images, or texts, per request."""
    max_characters: int = 20_000
    """Largest number of characters of a text."""
    max_pixels: int = 32_000_000
    """Largest number of pixels (width times height) of an image, and in total of all images being decoded at once."""
    max_input: int = 1_000_000
    """Largest number of pixels (width times height) per batch, used only if the preprocessing has no fixed size."""
    max_batch: int = 32
    """Largest number of images, or texts, per batch of the classifier."""
    max_wait_ms: float = 5.0
    """Longest time that a batch waits for images that are still being decoded, in milliseconds."""
    capacity: int = 128
    """Largest number of images in the service at once, from arrival to answer; further ones are refused with 503."""
    max_memory: int = 256 * 2**20
    """Largest total size of request bodies in memory, in bytes; further ones are refused with 503."""
    timeout: float = 30.0
    """Seconds until a request must be answered; after that, it is refused with 408 or 504."""
    decoders: int = 2
    """Number of threads that decode images."""
    max_connections: int = 1000
    """Largest number of open connections, or fewer if the limit of open files requires it. For a further one, the
    connection that has waited longest for its client is closed."""
    header_timeout: float = 10.0
    """Seconds within which a client must send the header of its request."""
    allowed_host: tuple[str, ...] = ()
    """A host name under which clients reach the service: `ood.example.org`, `*.example.org`, or `*` for any; repeat for
    several. Addresses and localhost are always allowed."""
    access_log: bool = False
    """Write one line per request to standard error."""
    tls_cert: Path | None = None
    """PEM file of the certificate chain, to serve HTTPS. If omitted, HTTP."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key, without a passphrase."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or field.name in ("max_wait_ms", "access_log"):
                continue
            if not 0 < value < inf:
                raise SettingError(f"`{field.name}` must be above 0 and finite; got {value:g}.")
        if not 0 <= self.max_wait_ms < inf:
            raise SettingError(f"`max_wait_ms` must be at least 0 and finite; got {self.max_wait_ms:g}.")
        for small, large in (("max_images", "capacity"), ("max_body", "max_memory")):
            if getattr(self, small) > getattr(self, large):
                raise SettingError(
                    f"`{large}` must be at least `{small}`, {getattr(self, small)}; got {getattr(self, large)}. "
                    f"Otherwise the largest allowed request would always be refused: raise {large}, or lower {small}."
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
