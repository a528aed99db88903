"""Issue warnings that point at the line of the user's code that called oodline."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_HERE = str(Path(__file__).parent.parent)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """As `warnings.warn`, at the line outside oodline that the outermost of its functions was called from.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("the set is small")
    >>> str(caught[0].message), caught[0].filename == __file__
    ('the set is small', False)
    """
    frame, level, found = sys._getframe(1), 2, 2
    while frame.f_back is not None:
        if frame.f_code.co_filename.startswith(_HERE):
            found = level + 1
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=found)
