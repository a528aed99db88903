"""Tokens of a language model: AUROC per token and per answer, false stops against the promise, delay of a stop.

    python -m benchmarks.accuracy.tokens [--model FILE] [--output FILE]

The model is trained in some minutes and kept in `--model`. ID answers are docstrings of Python's standard library, OOD
ones its code and docstrings that were changed (`tokens_text.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir

import torch
from benchmarks.accuracy.tokens_text import BATCH, HELD_OUT, LENGTH, STEPS, TEST, WIDTH, texts, tokens_of, trained
from cyclopts import App
from torch import Tensor

import oodline as ol
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.scoring.calibration import calibrate
from oodline.scoring.drift import wilson

DETECTORS = ("nll", "entropy", "msp", "max-logit", "energy", "gen", "mahalanobis,by=all", "residual")
WINDOWS = (1, 4, 8, 16, 32, 64)
WINDOW = 16
FALSE_ALARM = 0.05
FITTED = 1000
"""Pieces of the training text that detectors are fitted on."""
MODEL = Path(gettempdir()) / "oodline_tokens_gpt2.safetensors"
CHANGE = "code after 64 characters"

app = App()


def token_scores(detectors: dict[str, ol.Detector], classifier: ol.RowClassifier, tokens: Tensor) -> dict[str, Tensor]:
    """Scores (N, T) of the tokens of N answers of one length."""
    found: dict[str, list[Tensor]] = {name: [] for name in detectors}
    for batch in tokens.split(100):
        activations = classifier(batch)
        for name, detector in detectors.items():
            found[name].append(detector.score_rows(activations).double().reshape(len(batch), -1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def of_answers(scores: Tensor, per_input: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """One score per answer (N,) from those of its tokens (N, T)."""
    group = torch.arange(len(scores)).repeat_interleave(scores.shape[1])
    return per_input(scores.flatten(), group, torch.arange(len(scores)))


def running_means(scores: Tensor, window: int) -> Tensor:
    """Mean of the last `window` tokens (N, T); infinite before there are as many."""
    means = scores.unfold(1, window, 1).mean(2)
    return torch.nn.functional.pad(means, (window - 1, 0), value=torch.inf)


def cumulative(reference: Tensor) -> Callable[[Tensor], Tensor]:
    """Mean of all tokens so far, in standard deviations at each time, as half of the held-out answers have them."""
    count = torch.arange(1, reference.shape[1] + 1)
    means = reference.cumsum(1) / count
    return lambda scores: (scores.cumsum(1) / count - means.mean(0)) / means.std(0)


def cusum(reference: Tensor, slack: float = 0.5) -> Callable[[Tensor], Tensor]:
    """Minus Page's cumulative sum of how far tokens are below the usual score, less half a standard deviation."""
    mean, deviation = reference.mean(), reference.std()

    def statistic(scores: Tensor) -> Tensor:
        total, found = torch.zeros(len(scores), dtype=torch.float64), []
        for column in scores.T:
            total = (total + (mean - column) / deviation - slack).clamp(min=0)
            found.append(-total)
        return torch.stack(found, 1)

    return statistic


def stops(statistic: Tensor, threshold: float) -> Tensor:
    """Number of the token, from 1, at which each answer is stopped (N,); infinite for never."""
    below = statistic <= threshold
    return torch.where(below.any(1), below.double().argmax(1) + 1.0, torch.inf)


def delay(at: Tensor, source: str) -> str:
    """Median number of OOD tokens until the stop, of those that are stopped, and their share of all answers."""
    begin = LENGTH // 2 if source == CHANGE else 0
    at = at[at > begin] - begin  # what was stopped before the change is a false stop
    found = at[at.isfinite()]
    middle = f"{float(found.median()):g}" if len(found) else "-"
    return f"{middle} ({100 * len(found) / len(at):.0f} %)"


def row_of(name: str, sets: dict[str, Tensor], statistic: Callable[[Tensor], Tensor], held_out: Tensor) -> list[str]:
    """False stops on ID answers, and delays on OOD ones, of a running statistic whose lowest value is calibrated."""
    threshold = calibrate(statistic(held_out).amin(1), FALSE_ALARM).threshold
    stopped = int(stops(statistic(sets["ID"]), threshold).isfinite().sum())
    low, high = wilson(stopped, len(sets["ID"]))
    rate = f"{100 * stopped / len(sets['ID']):.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return [name, rate, *(delay(stops(statistic(scores), threshold), s) for s, scores in sets.items() if s != "ID")]


def page(path: Path) -> Iterator[str]:
    """The lines of the study."""
    data = texts()
    model, seconds = trained(path, data.train)
    classifier = ol.RowClassifier(model, ol.Tokens(judged="running", window=WINDOW))
    line = " ".join(data.train.split("\n"))
    pieces = [line[i : i + LENGTH] for i in range(0, len(line) - LENGTH, LENGTH)][:: len(line) // LENGTH // FITTED]
    detectors = {name.partition(",")[0]: ol.create_detector(name) for name in DETECTORS}
    ol.fit(detectors, classifier, list(tokens_of(pieces[:FITTED]).split(100)))
    answers = {"ID": data.test, **data.ood}
    found = {source: token_scores(detectors, classifier, tokens_of(some)) for source, some in answers.items()}
    held_out = token_scores(detectors, classifier, tokens_of(data.held_out))
    sources = list(data.ood)
    loss = -float(found["ID"]["nll"].mean())

    # the monitor itself, on a few answers, equals the arrays
    threshold = calibrate(of_answers(held_out["nll"], ol.LowestMean(WINDOW)), FALSE_ALARM)
    at = stops(running_means(found["code"]["nll"], WINDOW), threshold.threshold)
    for scores, expected in zip(found["code"]["nll"][:50], at[:50], strict=True):
        monitor = ol.AnswerMonitor(threshold, ol.LowestMean(WINDOW))
        monitor.update(scores)
        assert (monitor.stopped_at or torch.inf) == expected

    titles = ["detector", "false stops, %", *sources]
    rows = []
    for name in detectors:
        sets = {source: scores[name] for source, scores in found.items()}
        rows.append(row_of(name, sets, lambda s: running_means(s, WINDOW), held_out[name]))
    rates = [float(row[1].split()[0]) for row in rows]
    weights, minutes = sum(p.numel() for p in model.parameters()), seconds / 60
    by_source = dict(zip(sources, rows[0][2:], strict=True))
    delays = [f"{by_source[source]} in {source}" for source in ("letters replaced (rot13)", "code")]
    yield "# Tokens of a language model\n"
    stopped = f"Between {min(rates):.1f} and {max(rates):.1f} % of {TEST:,} ID answers are stopped, by the detector"
    yield (
        f"{stopped}, where {FALSE_ALARM:.0%} is promised. `{rows[0][0]}` stops OOD answers after a median of "
        f"{' and '.join(delays)} (share of answers that are stopped at all): a shift in kind is found at once, a "
        "neighbouring style by this small model in a minority of answers.\n"
    )
    yield (
        f"A character-level GPT-2 of {weights:,} weights (width {WIDTH}; {STEPS} steps of {BATCH} texts, {minutes:.0f} "
        "minutes on a shared core) is trained on docstrings of Python's standard library: "
        f"{loss:.2f} nats per character on others. An answer is the first {LENGTH} characters of a docstring that it "
        f"was not trained on: {HELD_OUT} to calibrate, {TEST:,} to measure on, chosen by a hash. OOD: code of the same "
        "library; docstrings whose words are in random order; docstrings in rot13; docstrings that turn into code in "
        "their middle, of which only what comes after it counts.\n"
    )
    yield "    python -m benchmarks.accuracy.tokens --output docs/results/tokens.md\n"
    yield "## AUROC per token, %\n"
    per_token = []
    for name in detectors:
        cells = []
        for source in sources:
            scores = found[source][name]
            cells.append(100 * auroc(found["ID"][name].flatten(), _counted(scores, source).flatten()))
        per_token.append([name, *(f"{cell:.1f}" for cell in cells)])
    yield from markdown(["detector", *sources], per_token)
    yield f"\n## AUROC per answer, %: mean / lowest / lowest mean of {WINDOW}\n"
    per_answer = []
    for name in detectors:
        cells = []
        for source in sources:
            pairs = [
                auroc(of_answers(found["ID"][name], how), of_answers(found[source][name], how))
                for how in (ol.Mean(), ol.Lowest(), ol.LowestMean(WINDOW))
            ]
            cells.append(" / ".join(f"{100 * pair:.1f}" for pair in pairs))
        per_answer.append([name, *cells])
    yield from markdown(["detector", *sources], per_answer)
    yield f"\n## Stops: lowest mean of {WINDOW} tokens, promised {FALSE_ALARM:.0%}\n"
    yield (
        "False stops are of ID answers, with the 95 % interval (Wilson). Delays are the median number of OOD "
        "characters until the stop, of those answers that are stopped, whose share is in brackets. What changes in the "
        f"middle is met by a window that is full; at the beginning {WINDOW} is the least.\n"
    )
    yield from markdown(titles, rows)
    yield "\n## Which running statistic?\n"
    yield (
        "The same for `nll`. For all of them the promise is one of the lowest value that a whole answer has, on "
        f"average over draws of the held-out answers; the rate of one draw of {HELD_OUT} itself has a deviation "
        f"(standard) of {100 * (FALSE_ALARM * (1 - FALSE_ALARM) / HELD_OUT) ** 0.5:.1f} points. The cumulative mean "
        "has a boundary that depends on time, and the CUSUM (Page, 1954) a usual "
        "score: both are taken from half of the held-out answers and calibrated on the others. A longer window finds "
        "smaller changes, and later. We take a window since a guard's file then has all that it needs: the CUSUM, "
        "which finds both, asks for a usual score beside the threshold.\n"
    )
    half = HELD_OUT // 2
    sets, kept = {source: scores["nll"] for source, scores in found.items()}, held_out["nll"]
    choices = [row_of(f"mean of the last {w}", sets, lambda s, w=w: running_means(s, w), kept) for w in WINDOWS]
    choices += [
        row_of("mean of all so far", sets, cumulative(kept[:half]), kept[half:]),
        row_of("CUSUM", sets, cusum(kept[:half]), kept[half:]),
    ]
    yield from markdown(["statistic", *titles[1:]], choices)


def _counted(scores: Tensor, source: str) -> Tensor:
    return scores[:, LENGTH // 2 :] if source == CHANGE else scores


@app.default
def main(*, model: Path = MODEL, output: Path | None = None) -> None:
    """Print the study, or write it.

    Parameters
    ----------
    model
        The trained model; it is trained and written there if it is missing.
    output
        Where to write the page.
    """
    text = "\n".join(page(model))
    if output is None:
        print(text)
    else:
        output.write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    app()
