"""`--preprocessing` as a `Preprocessing`, compared with the one that a guard file was fitted with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oodline._util.warning import warn
from oodline.errors import PreprocessingWarning, SettingError

if TYPE_CHECKING:
    from oodline.preprocessing.kinds import AnyPreprocessing
    from oodline.preprocessing.preprocessing import Preprocessing

SIZE = ("resize", "crop", "interpolation", "crop_rounding", "steps")
"""Fields that say together how an image gets its size, which can be said in two ways."""


def read_preprocessing(text: str, fitted: AnyPreprocessing | None = None) -> Preprocessing:
    """Read JSON, or a file of it; warn where it prepares images in another way than `fitted`, the guard file's.

    Raises
    ------
    SettingError
        It is not JSON, a field has a wrong value, or the guard reads texts.
    """
    from pydantic import ValidationError

    from oodline._util.validation import problem, shown
    from oodline.cli.checks import preprocessing_text
    from oodline.preprocessing.preprocessing import Preprocessing

    if fitted is not None and not isinstance(fitted, Preprocessing):
        raise SettingError("--preprocessing is for images, and the guard file is for texts. Leave it out.")
    content = preprocessing_text(text)
    try:
        given = Preprocessing.model_validate_json(content)
    except ValidationError as error:
        raise SettingError(f"--preprocessing {shown(text)}: {problem(error)}.") from error
    if fitted is not None and (others := differing(fitted, given)):
        listed = ", ".join(f"{name} {getattr(fitted, name)} there, {getattr(given, name)} here" for name in others)
        warn(
            "--preprocessing is not that of the guard file, so scores and thresholds may mean nothing: "
            f"{listed}. Leave it out to prepare images as in the fit.",
            PreprocessingWarning,
        )
    return given


def differing(one: Preprocessing, other: Preprocessing) -> list[str]:
    """Names of the fields by which images are prepared in two ways.

    Examples
    --------
    >>> from oodline import Preprocessing
    >>> one = Preprocessing(resize=8, crop=8)
    >>> differing(one, Preprocessing(steps=one.geometry)), differing(one, Preprocessing(resize=9, crop=8))
    ([], ['resize'])
    """
    same_size = one.geometry == other.geometry
    return [
        name
        for name in type(one).model_fields
        if getattr(one, name) != getattr(other, name) and not (same_size and name in SIZE)
    ]
