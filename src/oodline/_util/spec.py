"""Parse references, the one grammar for names on the command line: `SCHEME:NAME,key=value,key=value`.

`timm:mobilenetv2_100,num_classes=1001`, `torchvision:CIFAR10,root=data`, `line,p_a=0.9,clip=1.0`.
It needs no quoting in a shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from oodline.errors import SettingError

_OPTION = re.compile(r",([A-Za-z_]\w*)=")


@dataclass(frozen=True)
class Reference:
    """A parsed reference: optional scheme, name, and options already turned into Python values."""

    scheme: str | None
    name: str
    options: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """The text that parses to this."""
        options = "".join(f",{key}={_text(value)}" for key, value in self.options.items())
        return f"{self.scheme}:{self.name}{options}" if self.scheme else f"{self.name}{options}"


def parse_reference(text: str, schemes: Collection[str] = ()) -> Reference:
    """Split `text` into scheme, name and options.

    Parameters
    ----------
    text : str
        What the user wrote.
    schemes : collection of str
        The prefixes that count as a scheme; anything else before a colon belongs to the name, so that
        `python:file.py:factory` and plain paths come through.

    Returns
    -------
    Reference
        Option values are read as JSON where they are JSON (numbers, true, false, null, "text"), else kept as text.

    Raises
    ------
    SettingError
        An option is given twice, or it is not a string.

    Examples
    --------
    >>> parse_reference("timm:mobilenetv2_100,num_classes=1001,pad_type=same", {"timm"})
    Reference(scheme='timm', name='mobilenetv2_100', options={'num_classes': 1001, 'pad_type': 'same'})
    >>> parse_reference("images/,new").name
    'images/,new'
    """
    if not isinstance(text, str):
        raise SettingError(f"a reference must be a string such as 'line,p_a=0.2'; got {text!r}.")
    head, *rest = _OPTION.split(text)
    keys = rest[::2]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise SettingError(f"'{text}' sets {twice[0]} twice. Give each setting once.")
    options = {key: parse_value(value) for key, value in zip(keys, rest[1::2], strict=True)}
    scheme, colon, name = head.partition(":")
    if colon and scheme in schemes:
        return Reference(scheme, name, options)
    return Reference(None, head, options)


def parse_value(text: str) -> object:
    """Read JSON where it is JSON (numbers, true, false, null, "text"), else keep the text."""
    try:
        return json.loads(text)
    except ValueError:
        # ".9" is how people write fractions, and is not JSON
        return float(text) if re.fullmatch(r"[+-]?\.\d+", text) else text


def _text(value: object) -> str:
    # a text that would be read as a number, or true, is put in quotes
    plain = isinstance(value, str) and parse_value(value) == value
    return str(value) if plain else json.dumps(value)
