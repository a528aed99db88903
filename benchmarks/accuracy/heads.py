"""Which classifiers of timm, torchvision and transformers oodline takes, how, and why not: one line of JSON per model.

    python -m benchmarks.accuracy.heads run timm -o heads.jsonl      # again: goes on where it stopped
    python -m benchmarks.accuracy.heads run torchvision transformers -o heads.jsonl
    python -m benchmarks.accuracy.heads table heads.jsonl            # the tables of docs/results/heads.md

Weights are random, for a head's kind does not depend on them. Of a model that is taken, the probabilities equal those
of a plain call of the model, `W f + b` equals the logits, and the energy is that of the logits. A timm architecture of
more than 6 million weights whose smaller sibling has the same classes of modules at its end counts as that sibling.
"""

from __future__ import annotations

import gc
import json
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from benchmarks.accuracy.heads_models import (
    LARGEST,
    LATER,
    SMALL,
    Case,
    fill,
    timm_cases,
    timm_weights,
    torchvision_cases,
    transformers_cases,
)
from cyclopts import App, Parameter

from oodline import Classifier, Energy
from oodline.errors import OodlineError
from oodline.model.head import LinearHead
from oodline.model.outputs import logits_of

SOURCES = {"timm": timm_cases, "torchvision": torchvision_cases, "transformers": transformers_cases}

app = App(help=__doc__)


@app.command
def run(
    *sources: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("heads.jsonl"),
    most: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Try every model that the file does not have yet.

    Parameters
    ----------
    sources
        timm, torchvision, transformers.
    output
        Lines are added to it.
    most
        Stop after so many.
    part
        Of several processes, which one this is, and how many there are: each with a file of its own.
    """
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = {(row["library"], row["name"]) for row in rows}
    taken = {row["form"]: row for row in rows if row.get("form") and row["outcome"] == "taken"}
    with output.open("a") as file:
        for source in sources:
            cases = [case for case in SOURCES[source]() if (case.library, case.name) not in done]
            cases = cases[part[0] :: part[1]]
            for case, size, form in _described(cases):
                row = _as_sibling(case, taken.get(form), size) or try_case(case, size)
                row["form"], row["weights"] = form, size
                if row["outcome"] == "taken" and form:
                    taken.setdefault(form, row)
                file.write(json.dumps(row) + "\n")
                file.flush()
                most = None if most is None else most - 1
                if most == 0:
                    return


def _described(cases: list[Case]) -> Iterator[tuple[Case, float, str]]:
    """Cases with their weights and form, large ones at the end, when a smaller one of the form may have been run."""
    later = []
    for case in cases:
        if case.library != "timm":
            yield case, 0.0, ""
            continue
        size, form = timm_weights(case.names[0])
        if size < LATER:
            yield case, size, form
        else:
            later.append((case, size, form))
    yield from sorted(later, key=lambda one: one[1])


def _as_sibling(case: Case, sibling: Mapping[str, Any] | None, size: float) -> dict[str, Any] | None:
    if sibling is None or size < SMALL:
        if size > LARGEST:
            return _row(case, "not run", f"{size / 1e6:.0f} million weights, and no smaller one of its kind")
        return None
    how = {key: sibling[key] for key in ("head", "kind")}
    return {**_row(case, "taken", f"as {sibling['name']}"), **how}


def _row(case: Case, outcome: str, reason: str = "") -> dict[str, Any]:
    return {"library": case.library, "name": case.name, "names": case.names, "outcome": outcome, "reason": reason}


def try_case(case: Case, size: float = 0) -> dict[str, Any]:
    """Build a model, split it, and compare with what the model itself returns."""
    gc.collect()
    try:
        model, inputs = case.build()
        if not case.library.startswith("transformers"):
            fill(model)
        model.eval()
        batch, logits = _first_taken(model, inputs)
    except Exception as error:
        return _row(case, "not built", _short(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            classifier = Classifier(model)
            activations = classifier(batch)
        except OodlineError as error:
            return _row(case, "refused", str(error))
        except Exception as error:
            return _row(case, "crashed", "".join(traceback.format_exception(error))[-2000:])
    problems = []
    returned = logits.reshape(activations.logits.shape).float()
    if not torch.allclose(activations.logits.softmax(1), returned.softmax(1), atol=1e-6):
        problems.append("other probabilities than the model's")
    again = activations.head(activations.features)
    scale = activations.logits.abs().max()
    if float((again - activations.logits).abs().max()) > 2e-4 * float(scale):
        problems.append(
            f"W f + b is off by {float((again - activations.logits).abs().max()):.3g} of {float(scale):.3g}"
        )
    energy = Energy()(activations)
    if not torch.allclose(energy, activations.logits.logsumexp(1), rtol=1e-4, atol=1e-4):
        problems.append("another energy")
    if float(activations.logits.std(0).max()) == 0 or float(scale) == 0:
        problems.append("logits do not depend on the input: nothing is proven")
    row = _row(case, "wrong" if problems else "taken", "; ".join(problems))
    return {**row, "head": classifier.head_name, "kind": kind_of(classifier)}


def kind_of(classifier: Classifier) -> str:
    """What the head is made of, in words."""
    reading = classifier._reader._reading
    modules = [classifier.model.get_submodule(name) for name in reading.name.names]
    kinds = sorted({f"{type(m).__module__.split('.')[0]}'s {type(m).__name__}" for m in modules})
    text = " and ".join(kinds).replace("torch's Linear", "nn.Linear").replace("torch's Conv", "nn.Conv")
    if not isinstance(classifier.head, LinearHead):
        text = f"layers: {text}"
    if len(modules) > 1:
        factors = {round(f, 4) for f, _ in reading.name.terms}
        text = f"{'mean' if factors == {round(1 / len(modules), 4)} else 'sum'} of {len(modules)} {text}"
    places = {"only": "", "selected": ", on all tokens, one selected", "mean": ", on all places, averaged"}
    places["masked"] = ", on all tokens, those that are not padding averaged"
    return text + places[reading.place] + (", then a constant per row" if reading.shifted else "")


def _first_taken(model: torch.nn.Module, inputs: list[Any]) -> tuple[Any, torch.Tensor]:
    problem: Exception = ValueError("no input")
    for batch in inputs:
        try:
            with torch.no_grad():
                output = model(**batch) if isinstance(batch, Mapping) else model(batch)
            return batch, logits_of(model, output, batch)
        except Exception as error:
            problem = error
    raise problem


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def rows_of(results: Iterable[Path]) -> list[dict[str, Any]]:
    """The last row of each model in these files."""
    lines = [json.loads(line) for path in results for line in path.read_text().splitlines()]
    return list({(row["library"], row["name"]): row for row in lines}.values())


@app.command
def table(*results: Path) -> None:
    """Print what is taken, how, and why not, as Markdown."""
    rows = rows_of(results)
    print("| library | models | taken | refused | not built or not run |\n|---|---|---|---|---|")
    for library in dict.fromkeys(row["library"] for row in rows):
        of = [row for row in rows if row["library"] == library]
        count = Counter(row["outcome"] for row in of for _ in row["names"])
        rest = sum(n for outcome, n in count.items() if outcome not in ("taken", "refused"))
        total = sum(count.values())
        said = " (pretrained names)" if library == "timm" else ""
        print(f"| {library}{said} | {total} | {count['taken']} | {count['refused']} | {rest} |")
    print("\n| how | models | such as |\n|---|---|---|")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["outcome"] == "taken":
            kinds.setdefault(row["kind"], []).append(row)
    for kind, of in sorted(kinds.items(), key=lambda one: -sum(len(r["names"]) for r in one[1])):
        such = ", ".join(f"`{row['name']}`" for row in of[:3])
        print(f"| {kind} | {sum(len(r['names']) for r in of)} | {such} |")
    print("\n| not taken | models | why |\n|---|---|---|")
    reasons: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["outcome"] != "taken":
            reasons.setdefault(f"{row['outcome']}: {re.sub(r'[0-9]+', 'N', row['reason'])[:60]}", []).append(row)
    for of in reasons.values():
        names = ", ".join(f"`{row['name']}`" for row in of)
        print(
            f"| {names} | {sum(len(r['names']) for r in of)} | {of[0]['outcome']}: {of[0]['reason'].splitlines()[0]} |"
        )


if __name__ == "__main__":
    app()
