"""Say what an explanation knows, in sentences that claim no more, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodline.guard.explanation import Explanation


def class_words(label: int, name: str | None) -> str:
    """A class by its name, or by its number.

    Examples
    --------
    >>> class_words(3, "cat"), class_words(3, None)
    ('“cat”', 'class 3')
    """
    return f"class {label}" if name is None else f"“{name}”"


def percent(probability: float) -> str:
    """A probability in whole percent, and never as 0 or 100 %, which would say that it is certain.

    Examples
    --------
    >>> percent(0.9999), percent(0.5), percent(0.001)
    ('>99%', '50%', '<1%')
    """
    return ">99%" if probability > 0.995 else "<1%" if probability < 0.005 else f"{probability:.0%}"


def sentences_of(explanation: Explanation) -> list[str]:
    """What the classifier says, what the guard decided and by which member, what its neurons show, and what is next.

    Examples
    --------
    >>> import torch
    >>> from oodline.testing.toys import toy_image_guard
    >>> [explanation] = toy_image_guard().explain(torch.zeros(1, 3, 8, 8))
    >>> print(explanation.sentences[1])
    Flagged: the score of line, 1.1, is below the threshold, 15; p-value 0.016. Its class may be right or wrong.
    """
    return [
        *_of_the_place(explanation),
        _of_the_classifier(explanation),
        _of_the_guard(explanation),
        *_of_the_members(explanation),
        *_of_the_neurons(explanation),
        *_of_the_maps(explanation),
        _of_what_is_next(explanation),
    ]


def place_words(verdict: dict[str, Any]) -> str:
    """Which row of its input a verdict is of.

    Examples
    --------
    >>> place_words({"place": 6, "at": [1, 2], "grid": [4, 4]}), place_words({"place": 6, "at": [6], "grid": [9]})
    ('the place in row 1, column 2 of 4 x 4', 'place 6 of 9')
    """
    if "box" in verdict:
        return f"box {verdict['place']}"
    if len(verdict["grid"]) == 2:
        (row, column), (height, width) = verdict["at"], verdict["grid"]
        return f"the place in row {row}, column {column} of {height} x {width}"
    return f"place {verdict['place']}" + (f" of {verdict['grid'][0]}" if verdict["grid"] else "")


def _of_the_place(e: Explanation) -> Iterator[str]:
    if "place" in e.verdict:
        whole = e.verdict["input"]
        word = "flagged" if whole["is_ood"] else "accepted"
        yield (
            f"Explained is {place_words(e.verdict)}, counted from 0; by all of its rows the input is {word}, p-value "
            f"{whole['p_value']:.2g}."
        )


def _of_the_classifier(e: Explanation) -> str:
    first, *others = e.classes or (None,)
    name = class_words(e.verdict["label"], e.verdict["class_name"])
    who = f"The classifier ({e.model})" if e.model else "The classifier"
    if first is None:
        return f"{who} says {name}."
    then = ", ".join(f"{class_words(c.label, c.name)} {percent(c.probability)}" for c in others)
    return f"{who} says {name}, softmax {percent(first.probability)}" + (f"; next {then}." if then else ".")


def _of_the_guard(e: Explanation) -> str:
    verdict, whose = e.verdict, f"the score of {e.detector}" if e.detector else "its score"
    score, threshold, p = f"{verdict['score']:.2g}", f"{verdict['threshold']:.2g}", f"{verdict['p_value']:.2g}"
    if verdict["is_ood"]:
        return (
            f"Flagged: {whose}, {score}, is below the threshold, {threshold}; p-value {p}. "
            "Its class may be right or wrong."
        )
    what = "inputs" if "place" in verdict else "images"
    return (
        f"Accepted: {whose}, {score}, is usual among held-out {what} (threshold {threshold}, p-value {p}). "
        "The class may still be wrong."
    )


def _of_the_members(e: Explanation) -> Iterator[str]:
    if not e.members:
        return
    lowest, p = next(iter(e.members.items()))
    said = f"Of the members of {e.detector or 'the detector'}, {lowest} has the smallest p-value, {p:.2g}"
    own = e.members.get(e.explained_by)
    if not e.verdict["is_ood"]:
        yield f"{said}; the neurons below are those of {e.explained_by or 'one of them'}."
    elif e.explained_by == lowest:
        yield f"{said}; the neurons below are its own."
    elif own is not None:
        yield f"{said}. The neurons below are those of {e.explained_by}, p-value {own:.2g}: they need not be why."
    else:
        yield f"{said}. No member reads neurons by class; those below are compared with the training data."


def _of_the_neurons(e: Explanation) -> Iterator[str]:
    name = class_words(e.predicted_class, e.predicted_class_name)
    if e.predicted_class != e.verdict["label"]:
        yield f"By the features as the detector clips them, the class is {name}."
    few, total = int(e.important.sum()), len(e.important)
    share = f" ({e.found_total / e.expected_total:.0%})" if e.expected_total > 0 else ""
    yield (
        f"{few} of {total} neurons make 80 % of what usually speaks for {name}: here they give {e.found_total:.2f} of "
        f"{e.expected_total:.2f}{share}."
    )


def _of_the_maps(e: Explanation) -> Iterator[str]:
    if e.maps is not None:
        yield (
            "Agreement of where the class's strongest neurons and this image's look: "
            f"{e.maps.agreement:.2f} (1: the same places)."
        )


def _of_what_is_next(e: Explanation) -> str:
    if e.verdict["is_ood"]:
        return (
            "Next: do not act on the class; let a person look. Where many are flagged, check camera and preprocessing "
            "first, then label some."
        )
    return "Next: nothing in the score speaks against using the class; where an error is costly, check the next ones."
