"""Which detectors to fuse, and how: chosen on ID data and pseudo-outliers alone, then shown on real OOD sets.

    python -m benchmarks.studies.fuse_study [--only densenet100_cifar10] [--shared DIR] [--cache DIR] [--limit 400]

The networks run once over every set, and over what `tune` makes of held-out ID images. Every combination of up to four
members is judged against these pseudo-outliers; half of the held-out images are the reference of the p-values, the
others stand for ID data. Real OOD images are scored after the choice is made, and by all that was tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from benchmarks.studies.fuse_members import POOL, Rule, Scored, criteria, dependence, halves, margin, score_members
from benchmarks.studies.tune_passes import SETUPS, run_network
from cyclopts import App
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import betabinom
from torch import Tensor

from oodline._util.files import write_atomically
from oodline.cli.options import Json, print_json
from oodline.detectors.parts.combining import RULES, fisher, normal_quantile
from oodline.detectors.parts.p_values import log_p_values, scale_of
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.metrics import compute_metrics
from oodline.evaluation.rendering import markdown
from oodline.scoring.calibration import calibrate
from oodline.tuning.pseudo_outliers import FAR, NEAR

EXPLAINS = "line"
"""The member that says which neurons an alarm is about: the default has it, whatever else it has."""

BOOTSTRAP = Bootstrap(resamples=500)
RATES = (0.01, 0.05, 0.1)

app = App()


def summary(scored: Scored, areas: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the near, the far and all OOD sets, in %, of an AUROC by set (a number, or one a resample)."""
    near, far = [areas[k] for k in scored.setup.near], [areas[k] for k in scored.setup.far]
    groups = {"near": near, "far": far, "mean": near + far}
    return {side: 100 * np.mean(values, axis=0) for side, values in groups.items() if values}


def with_interval(scored: Scored, ids: Tensor, real: Mapping[str, Tensor]) -> dict[str, Any]:
    """Near, far and mean AUROC with their resamples."""
    others = {k: v.numpy() for k, v in real.items()}
    drawn = {k: v["auroc"] for k, v in BOOTSTRAP.resample(ids.numpy(), others).items()}
    areas = {k: compute_metrics(ids.numpy(), v).auroc for k, v in others.items()}
    return {"value": summary(scored, areas), "drawn": summary(scored, drawn)}


def fused(scored: Scored, members: Sequence[str], rule: Rule, reference: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Fused scores of the test images and of the real OOD sets, p-values taken against `reference` (rows, members)."""
    columns = scored.columns(members)
    scale = scale_of(reference[:, columns])

    def score(values: Tensor) -> Tensor:
        return rule(log_p_values(values[:, columns], scale))

    return score(scored.test), {k: score(v) for k, v in scored.real.items()}


def areas_of(scored: Scored, ids: Tensor, real: Mapping[str, Tensor]) -> dict[str, float]:
    """Near, far and mean AUROC in %."""
    return summary(scored, {k: compute_metrics(ids.numpy(), v.numpy()).auroc for k, v in real.items()})


def saturating(scored: Scored, members: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Fisher's rule on conformal p-values as they are: all that lies beyond the reference looks the same."""
    columns = scored.columns(members)
    ascending = scored.held_out[:, columns].T.sort(1).values.contiguous()

    def score(values: Tensor) -> Tensor:
        ranks = torch.searchsorted(ascending, values[:, columns].T.contiguous(), right=True)
        return ((1 + ranks) / (ascending.shape[1] + 1)).log().sum(0)

    return score(scored.test), {k: score(v) for k, v in scored.real.items()}


def by_class(scored: Scored, members: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Fisher's rule on p-values among fit data of the same predicted class, where that has 20 samples or more."""
    columns, fit = scored.columns(members), scored.predicted["fit"]
    whole = scale_of(scored.fit[:, columns])
    own = {c: scale_of(scored.fit[fit == c][:, columns]) for c in fit.unique().tolist() if int((fit == c).sum()) >= 20}

    def score(values: Tensor, predicted: Tensor) -> Tensor:
        found = torch.empty(len(values), dtype=torch.float64)
        for c in predicted.unique().tolist():
            rows = predicted == c
            found[rows] = fisher(log_p_values(values[rows][:, columns], own.get(c, whole)))
        return found

    return score(scored.test, scored.predicted["test"]), {
        k: score(v, scored.predicted[k]) for k, v in scored.real.items()
    }


def learned_rules(scored: Scored, members: Sequence[str]) -> dict[str, Rule]:
    """Rules that learn from the reference half, the last from pseudo-outliers too."""
    columns, (reference, ids) = scored.columns(members), halves(len(scored.held_out), 0)
    scale = scale_of(scored.held_out[reference][:, columns])
    known = log_p_values(scored.held_out[reference][:, columns], scale)
    covariance = torch.cov(normal_quantile(known).T) + 1e-3 * torch.eye(len(columns))
    inverse = torch.linalg.inv(covariance.double())
    weights = inverse.sum(1).clamp(min=0)
    sets = [known, *(log_p_values(scored.pseudo[k][ids][:, columns], scale) for k in (*NEAR, *FAR))]
    shares = [1.0, *(1 / len(NEAR) / 2 for _ in NEAR), *(1 / len(FAR) / 2 for _ in FAR)]
    rows, outlier = torch.cat(sets).numpy(), np.repeat([0, *(1 for _ in sets[1:])], [len(s) for s in sets])
    weight = np.repeat([share / len(s) for share, s in zip(shares, sets, strict=True)], [len(s) for s in sets])

    def loss(b: NDArray[np.float64]) -> float:
        z = b[0] - rows @ b[1:]
        return float((weight * (np.logaddexp(0, z) - outlier * z)).sum() + 1e-3 * (b[1:] ** 2).sum())

    bounds = [(None, None)] + [(0, None)] * len(columns)
    learned = torch.tensor(minimize(loss, np.full(len(columns) + 1, 0.5), bounds=bounds, method="L-BFGS-B").x[1:])

    def mahalanobis(log_p: Tensor) -> Tensor:
        z = normal_quantile(log_p).double()
        return -(z @ inverse * z).sum(1)

    return {
        "Gaussian of the normal quantiles": mahalanobis,
        "Stouffer, weighted for dependence": lambda log_p: normal_quantile(log_p).double() @ weights,
        "log p weighted by logistic regression on pseudo-outliers": lambda log_p: log_p.double() @ learned,
    }


def study_one(scored: Scored, chosen: Sequence[str], rivals: Mapping[str, Sequence[str]], seeds: int) -> dict[str, Any]:
    """Everything about one classifier, after the choice."""
    columns = scored.columns(chosen)
    ids, real = fused(scored, chosen, fisher, scored.held_out)
    default = with_interval(scored, ids, real)
    singles = {
        name: with_interval(scored, scored.test[:, i], {k: v[:, i] for k, v in scored.real.items()})
        for i, name in enumerate(scored.members)
    }
    gains = {}
    for side in default["value"]:
        best = max(singles, key=lambda name: singles[name]["value"][side])
        difference = default["drawn"][side] - singles[best]["drawn"][side]
        interval = BOOTSTRAP.interval(difference)
        gains[side] = {
            "best": best,
            "gain": default["value"][side] - singles[best]["value"][side],
            "interval": [interval.low, interval.high],
        }
    combined = {name: areas_of(scored, *fused(scored, m, fisher, scored.held_out)) for name, m in rivals.items()}
    rules = {**RULES, **learned_rules(scored, chosen)}
    by_rule = {name: areas_of(scored, *fused(scored, chosen, rule, scored.held_out)) for name, rule in rules.items()}
    by_rule["fisher of conformal p-values, which saturate"] = areas_of(scored, *saturating(scored, chosen))
    by_rule["fisher of p-values by predicted class, of fit data"] = areas_of(scored, *by_class(scored, chosen))
    count, draw = len(scored.held_out), torch.Generator().manual_seed(0)
    references = {
        f"held-out, {n}": scored.held_out[torch.randperm(count, generator=draw)[:n]]
        for n in (20, 50, 100, 500)
        if n < count
    }
    references |= {f"held-out, {count}": scored.held_out, "fit data, 1000": scored.fit[:1000]}
    by_reference = {name: areas_of(scored, *fused(scored, chosen, fisher, r)) for name, r in references.items()}
    parts = [halves(count, seed) for seed in range(seeds)]
    runs = [areas_of(scored, *fused(scored, chosen, fisher, scored.held_out[reference])) for reference, _ in parts]
    spread = {
        side: [float(np.mean([r[side] for r in runs])), float(np.std([r[side] for r in runs]))] for side in runs[0]
    }
    alarms = {}
    scale = scale_of(scored.held_out[parts[0][0]][:, columns])
    held_out, new = (fisher(log_p_values(s[:, columns], scale)) for s in (scored.held_out[parts[0][1]], scored.test))
    for rate in RATES:
        if rate * (len(held_out) + 1) >= 1:
            flagged = int(calibrate(held_out, rate).is_ood(new).sum())
            k, n = int(rate * (len(held_out) + 1)), len(held_out)
            law = betabinom(len(new), k, n + 1 - k)
            alarms[rate] = {
                "flagged": flagged / len(new),
                "low": law.ppf(0.025) / len(new),
                "high": law.ppf(0.975) / len(new),
            }
    fpr = {k: compute_metrics(ids.numpy(), v.numpy()) for k, v in real.items()}
    return {
        "failures": scored.failures,
        "default": {side: interval_of(default, side) for side in default["value"]},
        "singles": {n: {side: interval_of(s, side) for side in s["value"]} for n, s in singles.items()},
        "gains": gains,
        "combinations": combined,
        "rules": by_rule,
        "references": by_reference,
        "halves": spread,
        "alarms": alarms,
        "fpr95": {k: [100 * m.fpr95_id_positive, 100 * m.fpr95_ood_positive] for k, m in fpr.items()},
    }


def interval_of(measured: Mapping[str, Any], side: str) -> list[float]:
    """Value and both ends of its interval."""
    interval = BOOTSTRAP.interval(measured["drawn"][side])
    return [float(measured["value"][side]), interval.low, interval.high]


def decide(scored: Sequence[Scored], seeds: int, most: int) -> dict[str, Any]:
    """The choice: the best criterion of all combinations with a member that explains; and what else came out."""
    started = perf_counter()
    values = criteria(scored, seeds, most)
    best = next(iter(values))
    chosen = next(members for members in values if EXPLAINS in members and len(members) > 1)
    sizes = {}
    for size in range(1, most + 1):
        of_size = [members for members in values if len(members) == size]
        sizes[size] = [*of_size[:2], next(members for members in of_size if EXPLAINS in members)]
    rivals = {" + ".join(members): members for found in sizes.values() for members in found if len(members) > 1}
    lost = margin(scored, best, chosen)
    return {
        "tried": len(values),
        "seconds": perf_counter() - started,
        "chosen": chosen,
        "best": best,
        "lost": {"points": lost[0], "standard error": lost[1]},
        "values": {" + ".join(m): values[m] for found in sizes.values() for m in found},
        "dependence": {k: float(np.mean([dependence(s, m) for s in scored])) for k, m in rivals.items()},
        "rivals": rivals,
    }


@app.default
def main(
    *,
    shared: Path = Path("../shared"),
    only: list[str] | None = None,
    output: Path | None = None,
    cache: Path | None = None,
    limit: int | None = None,
    most: int = 4,
    seeds: int = 2,
    as_json: Json = False,
) -> None:
    """Run the study.

    Parameters
    ----------
    shared
        Folder with `data`.
    only
        These classifiers only; the choice then rests on them alone.
    output
        Write the tables to this Markdown file, below the text that it begins with.
    cache
        Keep activations in this folder, for a second run in minutes. Empty it when weights or code change.
    limit
        At most so many images of each test set, and half as many held-out ones; 4,000 ID and 2,000 OOD without it.
    most
        Members at most.
    seeds
        Ways to halve the held-out images for the choice; five times as many for the spread.
    as_json
        Print one JSON document in place of the tables.
    """
    sizes = (1000, 4000, 2000) if limit is None else (max(limit // 2, 40), limit, limit)
    scored = {}
    for name in only or SETUPS:
        scored[name] = score_members(SETUPS[name], run_network(name, SETUPS[name], shared / "data", cache, sizes))
    chosen_on = [name for name in scored if SETUPS[name].chosen_on] or list(scored)
    choice = decide([scored[name] for name in chosen_on], seeds, most)
    read = {name: [SETUPS[name].fit, *map(str, SETUPS[name].held_out), "their pseudo-outliers"] for name in chosen_on}
    found = {
        "settings": {member: POOL[member] for member in choice["chosen"]},
        "read for the choice": read,
        "choice": {key: value for key, value in choice.items() if key != "rivals"},
        "classifiers": {k: study_one(s, choice["chosen"], choice["rivals"], 5 * seeds) for k, s in scored.items()},
    }
    text = page(found)
    if as_json:
        print_json(found)
    else:
        print(text)
    if output is not None:
        begin = output.read_text().partition(MARK)[0] if output.is_file() else ""
        content = f"{begin}{MARK}\n\n{text}\n".encode()
        write_atomically(output, lambda file: file.write(content))


MARK = "<!-- below: printed by benchmarks/studies/fuse_study.py -->"


def page(found: Mapping[str, Any]) -> str:
    """Every table as Markdown."""
    choice, parts = found["choice"], found["classifiers"]
    rows = []
    for name, value in choice["values"].items():
        known = [parts[k]["combinations"].get(name) or plain(parts[k]["singles"].get(name)) for k in parts]
        shown = ["/".join(f"{v:.1f}" for v in areas.values()) if areas else "-" for areas in known]
        dependence = choice["dependence"].get(name)
        rows.append([name, f"{value:.2f}", "-" if dependence is None else f"{dependence:.2f}", *shown])
    lost = choice["lost"]
    lines = [
        f"## The choice: {' + '.join(choice['chosen'])}",
        "",
        f"{choice['tried']} combinations; {' + '.join(choice['best'])} is {lost['points']:.2f} points better against "
        f"pseudo-outliers (standard error of images {lost['standard error']:.2f}). For the choice these were read, and "
        "nothing else: " + "; ".join(f"{k}: {', '.join(v)}" for k, v in found["read for the choice"].items()) + ".",
        "",
        *markdown(["members", "criterion", "dependence", *(f"{k}, real OOD: near/far/mean" for k in parts)], rows),
    ]
    for name, part in parts.items():
        sides = list(part["default"])
        everyone = {"**fused**": part["default"], **part["singles"]}
        order = sorted(everyone, key=lambda key: -everyone[key]["mean"][0])
        lines += ["", f"## {name}", ""]
        lines += markdown(
            ["AUROC, 95 % interval", *sides],
            [
                [k, *(f"{v:.2f} ({low:.2f}, {high:.2f})" for v, low, high in (everyone[k][s] for s in sides))]
                for k in order
            ],
        )
        lines += ["", "Fused less the best single method on each side, which nobody knows beforehand: "]
        lines[-1] += "; ".join(
            f"{side} {g['gain']:+.2f} ({g['interval'][0]:+.2f}, {g['interval'][1]:+.2f}; {g['best']})"
            for side, g in part["gains"].items()
        )
        lines[-1] += "."
        lines += [
            "",
            *markdown(["rule", *sides], [[k, *(f"{v[s]:.2f}" for s in sides)] for k, v in part["rules"].items()]),
        ]
        references = [[k, *(f"{v[s]:.2f}" for s in sides)] for k, v in part["references"].items()]
        halved = ["half of the held-out, mean and spread", *(f"{m:.2f} ± {d:.2f}" for m, d in part["halves"].values())]
        lines += ["", *markdown(["reference", *sides], [*references, halved])]
        shown = [f"{100 * float(rate):.0f} %" for rate in part["alarms"]]
        alarms = [
            f"{100 * a['flagged']:.2f} ({100 * a['low']:.2f} to {100 * a['high']:.2f})" for a in part["alarms"].values()
        ]
        lines += ["", *markdown(["false alarms promised", *shown], [["flagged, % (95 % of calibrations)", *alarms]])]
        by_set = [[f"{v[i]:.2f}" for v in part["fpr95"].values()] for i in (0, 1)]
        conventions = [["ID positive (LINe's)", *by_set[0]], ["OOD positive", *by_set[1]]]
        lines += ["", *markdown(["FPR@95, fused", *part["fpr95"]], conventions)]
        lines += [f"\nLeft out: {k}: {v}" for k, v in part["failures"].items()]
    return "\n".join(lines)


def plain(intervals: Mapping[str, Sequence[float]] | None) -> dict[str, float]:
    """The values without their intervals."""
    return {side: values[0] for side, values in (intervals or {}).items()}


if __name__ == "__main__":
    app()
