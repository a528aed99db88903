"""Every error that oodline raises on purpose: the fact, the context, the remedy.

All derive from `OodlineError`, and from the built-in that a caller would already be catching.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OodlineError(Exception):
    """Base of every error that oodline raises on purpose."""


class HeadError(OodlineError, ValueError):
    """The linear head is missing, ambiguous, or does not produce the logits."""


class InputError(OodlineError, ValueError):
    """A batch has the wrong shape or holds NaN or infinite values, or there is none."""


class LabelError(OodlineError, ValueError):
    """Labels are missing, out of range, not integers, or a class has no sample."""


class SettingError(OodlineError, ValueError):
    """A setting is outside the range in which it means something."""


class DetectorError(OodlineError, ValueError):
    """A class or a function does not say what a detector must say, or its scores are not one number per sample."""


class NotFittedError(OodlineError, RuntimeError):
    """A detector, or a guard, was used before it was fitted or calibrated."""


class MismatchError(OodlineError, ValueError):
    """What was fitted on one classifier is used with another."""


class ArtifactError(OodlineError, ValueError):
    """A saved file is truncated, tampered with, of another kind, or of a newer format."""


class DataError(OodlineError, ValueError):
    """A data set, an image or a text cannot be read."""


class ImageError(DataError):
    """One image is damaged, of a format that is not read, or holds values whose meaning is not known.

    Attributes
    ----------
    reason : str
        The same without the image's name.
    """

    reason = ""


class TextError(DataError):
    """One row of a data set is malformed, or holds no text.

    Attributes
    ----------
    reason : str
        The same without the row's name.
    """

    reason = ""


class ModelError(OodlineError, ValueError):
    """A model reference or a weight file cannot be turned into a model."""


class ExportError(OodlineError, RuntimeError):
    """A guard cannot be turned into a graph, or the graph does not give what the guard gives."""


class UnknownNameError(OodlineError, KeyError):
    """A name is not in the table it was looked up in; the message says the nearest one."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class MissingExtraError(OodlineError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""


class EngineError(OodlineError, RuntimeError):
    """The processes that make a pass together cannot be reached, or one of them failed."""


class RankError(EngineError):
    """A rank of a distributed run failed; raised on all ranks, with that rank's sentence."""


class StatisticsError(OodlineError, ValueError):
    """Two statistics do not describe the same thing and cannot be merged or restored."""


class AssumptionWarning(UserWarning):
    """The data does not bear out what a method supposes of it, or a setting does not fit it; says the number."""


class PreprocessingWarning(UserWarning):
    """Images, or texts, are prepared in another way than a guard was fitted with; says what differs."""


class FewSamplesWarning(UserWarning):
    """An estimate rests on so few samples that it is mostly noise."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name, with the nearest known one as suggestion.

    >>> print(unknown_name("detector", "enregy", ["energy", "line"]))
    unknown detector 'enregy'. Did you mean 'energy'? Known: energy, line.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UnknownNameError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(known) or 'none'}.")


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """Build the error for an optional dependency that is not installed.

    >>> print(missing_extra("timm", "timm", "timm: references"))
    timm: references need the package 'timm'. Install it with: pip install 'oodline[timm]'
    """
    return MissingExtraError(f"{purpose} need the package '{package}'. Install it with: pip install 'oodline[{extra}]'")
