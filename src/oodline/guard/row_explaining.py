"""Which row of an input is explained, and its verdict: that of the row, with its place and that of the whole input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from oodline.errors import InputError
from oodline.guard.row_verdict import RowVerdict


def rows_to_explain(verdict: RowVerdict, place: int | None = None) -> Int[Tensor, " g"]:
    """One row of each input (G,), in ascending order: that at a place, or the one of the lowest score.

    Raises
    ------
    InputError
        An input has no row there, or none at all.
    """
    assert verdict.rows_of is not None
    places, scores = verdict.rows_of.places, verdict.rows_of.score
    chosen = []
    rows = torch.arange(len(places))
    for i, (own, numbers, values) in enumerate(
        zip(places.lists(rows), places.lists(places.place), places.lists(scores), strict=True)
    ):
        here = own if place is None else own[numbers == place]
        if len(here) == 0:
            there = sorted(numbers.tolist())
            known = f"its places go from {there[0]} to {there[-1]}" if there else "it has none"
            raise InputError(
                f"input {i} has no row{'' if place is None else f' at place {place}'} to explain: {known}."
            )
        chosen.append(int(here[0] if place is not None else own[values.argmin()]))
    return torch.tensor(chosen)


def verdicts_of_rows(verdict: RowVerdict, chosen: Int[Tensor, " g"]) -> list[dict[str, Any]]:
    """One plain dict per row, as `Verdict.rows` gives one per input; see `Explanation.verdict` for what is added."""
    assert verdict.rows_of is not None
    rows, places, names = verdict.rows_of, verdict.rows_of.places, verdict.class_names
    found = []
    for i, row in enumerate(chosen.tolist()):
        label, place = int(rows.label[row]), int(places.place[row])
        one = {
            "label": label,
            "class_name": names[label] if names and 0 <= label < len(names) else None,
            "score": float(rows.score[row]),
            "threshold": float(verdict.threshold[i]),
            "is_ood": bool(rows.is_ood[row]),
            "p_value": float(rows.p_value[row]),
            "place": place,
            "at": [int(each) for each in np.unravel_index(place, places.grid)] if places.grid else [],
            "grid": list(places.grid),
            "input": {
                "score": float(verdict.score[i]),
                "is_ood": bool(verdict.is_ood[i]),
                "p_value": float(verdict.p_value[i]),
            },
        }
        if "box" in places.known:
            one["box"] = places.known["box"][row].tolist()
        found.append(one)
    return found
