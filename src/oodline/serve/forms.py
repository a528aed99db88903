"""Read the files of a multipart form (RFC 7578) while they arrive, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from oodline.serve.problems import MALFORMED_FORM, TOO_MANY_IMAGES, Problem

FIELDS = ("images", "image")
"""Fields of a form that hold images; other fields are ignored."""

MAX_OTHERS = 16
"""Other fields at most."""

MAX_HEADER = 4096
"""Bytes of the headers of one part at most."""

HOW = "Send one image as the body, with its content type, or a form with files as `images`."


@dataclass(frozen=True)
class Upload:
    """A file as it came: its name, where it has one, and its bytes."""

    name: str | None
    content: bytes


class Form:
    r"""A form that is fed chunk by chunk.

    Parameters
    ----------
    content_type : str
        The request's, with the boundary.
    max_images : int
        Files at most.

    Raises
    ------
    Problem
        There is no boundary; later, the form is malformed, or holds too many images.

    Examples
    --------
    >>> form = Form("multipart/form-data; boundary=x", max_images=1)
    >>> form.feed(b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\nPNG')
    >>> form.feed(b"\r\n--x--\r\n")
    >>> form.uploads()
    [Upload(name='a.png', content=b'PNG')]
    """

    def __init__(self, content_type: str, max_images: int) -> None:
        self._max_images = max_images
        self._uploads: list[Upload] = []
        self._others = 0
        self._complete = False
        self._header = self._value = b""
        self._disposition = b""
        self._content: bytearray | None = None
        self._name: str | None = None
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise Problem(MALFORMED_FORM, "Its content type names no boundary.", HOW)
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as error:
            raise Problem(MALFORMED_FORM, f"{error}.", HOW) from error

    def feed(self, chunk: bytes) -> None:
        """Take in a part of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Problem(MALFORMED_FORM, f"{error}.", HOW) from error

    def uploads(self) -> list[Upload]:
        """The images, once the body is at its end."""
        if not self._complete:
            raise Problem(MALFORMED_FORM, "It ends before its last boundary.", HOW)
        if not self._uploads:
            raise Problem(MALFORMED_FORM, "It holds no file as `images`.", HOW)
        return self._uploads

    def _begin(self) -> None:
        self._header = self._value = self._disposition = b""
        self._content = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > MAX_HEADER:
            raise Problem(MALFORMED_FORM, f"A part has a header of more than {MAX_HEADER} bytes.", HOW)

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if options.get(b"name", b"").decode("latin-1") not in FIELDS:
            self._others += 1
            if self._others > MAX_OTHERS:
                raise Problem(MALFORMED_FORM, f"It has more than {MAX_OTHERS} fields beside `images`.", HOW)
            return
        if len(self._uploads) == self._max_images:
            detail, remedy = f"More than {self._max_images} were sent.", f"Send at most {self._max_images} at a time"
            raise Problem(TOO_MANY_IMAGES, detail, f"{remedy} (max_images).")
        self._content = bytearray()
        self._name = options.get(b"filename", b"").decode("utf-8", "replace")[:200] or None

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._content is not None:
            self._content += data[start:end]

    def _end(self) -> None:
        if self._content is not None:
            self._uploads.append(Upload(self._name, bytes(self._content)))
        self._content = None

    def _finish(self) -> None:
        self._complete = True
