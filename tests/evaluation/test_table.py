"""Tables: groups, averages, intervals, and every form in which they are written."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from oodline.errors import SettingError, UnknownNameError
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.evaluate import tabulate
from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.metrics import compute_metrics
from oodline.evaluation.paper import PAPER, paper_metrics
from oodline.evaluation.rendering import FULL_SPECTRUM
from oodline.evaluation.table import Column, Table
from oodline.evaluation.writing import WRITERS, write_table

GROUPS = {"near": ["cifar100", "tiny_imagenet"], "far": ["svhn", "textures"]}
SETS = ("svhn", "cifar100", "mnist", "tiny_imagenet", "textures")


@pytest.fixture(scope="module")
def scores():
    random = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(60, generator=random).double() + 1 for name in ("line", "ash-s")}
    ood = {
        name: {d: torch.randn(20 + 10 * k, generator=random).double() - 0.2 * k for d in drawn}
        for k, name in enumerate(SETS)
    }
    return drawn, ood


@pytest.fixture(scope="module")
def table(scores):
    return tabulate(*scores, groups=GROUPS, bootstrap=Bootstrap(resamples=50))


def test_columns_are_groups_with_their_means_then_the_rest(table):
    assert [c.title for c in table.columns] == [
        "cifar100", "tiny_imagenet", "near mean", "svhn", "textures", "far mean", "mnist", "mean",
    ]  # fmt: skip
    assert [c.title for c in table.pooled_columns] == ["near pooled", "far pooled", "pooled"]


def test_in_a_mean_every_set_counts_the_same_and_in_a_pool_every_image(table, scores):
    ours, theirs = scores
    for metric in METRICS:
        for names, mean, pooled in [(GROUPS["near"], table.columns[2], table.pooled_columns[0])]:
            each = [getattr(compute_metrics(ours["line"], theirs[name]["line"]), metric) for name in names]
            assert table.value("line", metric, mean) == pytest.approx(np.mean(each), abs=1e-12)
            together = torch.cat([theirs[name]["line"] for name in names])
            assert table.value("line", metric, pooled) == getattr(compute_metrics(ours["line"], together), metric)
    assert (
        table.value("line", "auroc", None)
        == table.mean("line", "auroc")
        == table.value("line", "auroc", table.all_sets)
    )


def test_the_interval_of_a_mean_is_of_the_mean_over_shared_resamples(table, scores):
    ours, theirs = scores
    drawn = Bootstrap(resamples=50).resample(ours["line"], {name: by["line"] for name, by in theirs.items()})
    near = np.mean([drawn[name]["auroc"] for name in GROUPS["near"]], axis=0)
    assert table.interval("line", "auroc", table.columns[2]) == Bootstrap(resamples=50).interval(near)
    assert table.interval("line", "auroc", "svhn") == Bootstrap(resamples=50).interval(drawn["svhn"]["auroc"])
    assert table.interval("line", "auroc", table.pooled_columns[0]) is None


def test_by_the_papers_convention_every_cell_is_theirs(scores):
    ours, theirs = scores
    found = tabulate(ours, theirs, groups=GROUPS, convention=PAPER, bootstrap=Bootstrap(resamples=20))
    assert found.cells["line"]["svhn"] == paper_metrics(ours["line"], theirs["svhn"]["line"])
    together = torch.cat([theirs[name]["line"] for name in GROUPS["far"]])
    assert found.pooled["line"]["svhn", "textures"] == paper_metrics(ours["line"], together)
    drawn = Bootstrap(resamples=20).resample(ours["line"], {"svhn": theirs["svhn"]["line"]}, PAPER)
    assert found.interval("line", "aupr_in", "svhn") == Bootstrap(resamples=20).interval(drawn["svhn"]["aupr_in"])
    assert found.to_dict()["convention"] == "paper"


def test_markdown_has_means_of_groups_and_intervals_in_brackets(table):
    lines = table.to_markdown("auroc").splitlines()
    assert lines[0].startswith("| detector | cifar100 (near) | tiny_imagenet (near) | near mean | svhn (far) |")
    interval = table.interval("line", "auroc", "cifar100")
    value = f"{100 * table.value('line', 'auroc', 'cifar100'):.2f}"
    assert f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]" in lines[2]
    assert value in lines[2]
    for column in range(8):
        cells = [line.split("|")[column + 2] for line in lines[2:]]
        assert sum("**" in cell for cell in cells) == 1
    pooled = table.to_markdown("auroc", table.pooled_columns).splitlines()
    assert pooled[0] == "| detector | near pooled | far pooled | pooled |"
    assert "[" not in pooled[2]


def test_latex_has_the_rules_of_booktabs_and_as_many_cells_in_every_row(table):
    text = table.to_latex("auroc")
    lines = text.splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrrrrrr}"
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")] == [1] * 4
    rows = [line for line in lines if line.endswith(r"\\")]
    widths = [sum(int(n) for n in re.findall(r"multicolumn\{(\d+)\}", row)) or row.count("&") for row in rows]
    assert widths == [8, 8, 8, 8]  # two rows of heads, two detectors
    assert rows[0] == r" & \multicolumn{3}{c}{near} & \multicolumn{3}{c}{far} & \multicolumn{2}{c}{} \\"
    assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}" in lines
    assert r"tiny\_imagenet" in rows[1]
    for column in range(1, 9):
        assert sum("textbf" in row.split("&")[column] for row in rows[2:]) == 1
    assert text.count("{") == text.count("}")


def test_latex_escapes_what_it_would_take_for_its_own():
    strange = {"50% & _{x}": {"a#b": compute_metrics([1.0], [0.0])}}
    text = Table(strange).to_latex("auroc")
    assert r"50\% \& \_\{x\} &" in text
    assert r"a\#b \\" in text


def test_csv_has_single_sets_and_the_ends_of_intervals(table):
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(rows) == 2 * 5
    for row in rows:
        interval = table.interval(row["detector"], "auroc", row["ood"])
        assert (float(row["auroc_low"]), float(row["auroc_high"])) == (interval.low, interval.high)
        assert float(row["auroc"]) == table.value(row["detector"], "auroc", row["ood"])


def test_json_holds_averages_of_both_kinds(table):
    found = json.loads(table.to_json())
    assert found["groups"] == GROUPS
    averages = {(row["detector"], row["average"]): row for row in found["averages"]}
    assert {name for _, name in averages} == {"near mean", "far mean", "mean", "near pooled", "far pooled", "pooled"}
    row = averages["ash-s", "far pooled"]
    assert (row["pooled"], row["sets"]) == (True, ["svhn", "textures"])
    assert row["auroc"] == table.value("ash-s", "auroc", table.pooled_columns[1])
    assert averages["ash-s", "far mean"]["auroc_low"] == table.interval("ash-s", "auroc", table.columns[5]).low


def test_the_ending_chooses_the_form(table, tmp_path):
    texts = {
        ending: write_table(replace(table, full_spectrum=table), tmp_path / f"t{ending}").read_text()
        for ending in WRITERS
    }
    assert f"## {FULL_SPECTRUM}" in texts[".md"]
    assert texts[".md"].count("AUROC (higher is better), %") == 2
    assert texts[".tex"].count(r"\begin{tabular}") == 6
    assert texts[".csv"] == table.to_csv()
    assert json.loads(texts[".json"])["full_spectrum"]["rows"] == json.loads(texts[".json"])["rows"]
    with pytest.raises(SettingError, match=r"must end in .*; got t\.html"):
        write_table(table, tmp_path / "t.html")


def test_a_paper_table_says_so_in_every_form(scores, tmp_path):
    found = tabulate(*scores, convention=PAPER)
    for ending in (".md", ".tex", ".json"):
        assert "paper" in write_table(found, tmp_path / f"t{ending}").read_text()
        assert "paper" not in write_table(tabulate(*scores), tmp_path / f"t{ending}").read_text()


def test_a_single_set_has_no_average_of_its_own():
    table = Table({"line": {"svhn": compute_metrics([1.0], [0.0])}}, groups={"far": ["svhn"]})
    assert [c.title for c in table.columns] == ["svhn"]
    assert table.mean("line", "auroc") == 1.0
    assert table.average_rows() == []


def test_a_metric_that_does_not_exist_is_refused(table):
    with pytest.raises(UnknownNameError, match=r"unknown metric 'fpr95_id'\. Did you mean 'fpr95_id_positive'"):
        table.to_markdown("fpr95_id")


def test_groups_and_columns_that_do_not_exist_are_refused(table, scores):
    cells = table.cells
    with pytest.raises(SettingError, match="names 'sun', which is not an OOD set"):
        Table(cells, groups={"far": ["sun"]})
    with pytest.raises(SettingError, match="'svhn' is in two groups"):
        Table(cells, groups={"near": ["svhn"], "far": ["svhn"]})
    with pytest.raises(SettingError, match="names 'sun', which is not an OOD set"):
        tabulate(*scores, groups={"far": ["sun"]})
    with pytest.raises(UnknownNameError, match="Did you mean 'svhn'"):
        table.value("line", "auroc", "shvn")
    assert table.value("line", "auroc", Column("both", ("svhn", "mnist"))) == pytest.approx(
        (table.value("line", "auroc", "svhn") + table.value("line", "auroc", "mnist")) / 2
    )


def test_a_table_prints_itself_with_groups_sizes_and_accuracy(table):
    text = str(replace(table, accuracy=0.5))
    assert text.startswith("AUROC (higher is better), %")
    assert "cifar100 (near)" in text and "near mean" in text and "far pooled" in text
    assert f"{100 * table.value('line', 'auroc', 'mnist'):.2f}" in text
    assert text.endswith(
        "ID samples: 60, of which the classifier gets 50.00 % right; OOD samples: "
        "svhn 20, cifar100 30, mnist 40, tiny_imagenet 50, textures 60"
    )
    assert repr(table) == "Table(2 detectors, 5 OOD sets)"


def test_names_neither_control_the_terminal_nor_are_read_as_markup():
    table = Table({"line[/b]": {"\x1b[2Jfar": compute_metrics([2.0], [1.0])}}, milliseconds={"line[/b]": 1.0})
    text = str(table)
    assert "\x1b" not in text and text.count("\\x1b[2Jfar") == 4 and text.count("line[/b]") == 4


def test_a_notebook_shows_escaped_names_and_every_value():
    cells = {"<b>x</b>": {"a&b": compute_metrics([2.0, 3.0], [1.0, 2.5])}}
    html = Table(cells)._repr_html_()
    assert "<b>x</b>" not in html and "&lt;b&gt;x&lt;/b&gt;" in html and "a&amp;b" in html
    assert html.count("<table>") == html.count("</table>") == 3
    assert "<b>75.00</b>" in html


def test_a_data_frame_has_the_rows_and_their_groups(table):
    frame = table.to_pandas()
    assert list(frame.columns) == list(table.rows()[0])
    assert frame.auroc.tolist() == [row["auroc"] for row in table.rows()]
    assert frame.groupby("ood").group.first().to_dict()["svhn"] == "far"


@pytest.mark.parametrize(
    ("name", "sets"),
    [("mean", SETS), ("near mean", GROUPS["near"]), ("far mean", GROUPS["far"]), ("svhn", ["svhn"])],
)
def test_columns_are_asked_for_by_the_names_that_are_shown(table, name, sets):
    each = [table.value("line", "fpr95_id_positive", one) for one in sets]
    assert table.value("line", "fpr95_id_positive", name) == pytest.approx(np.mean(each), abs=1e-12)


def test_pooled_columns_too_and_what_is_not_there_is_named(table):
    assert table.value("line", "auroc", "near pooled") == table.value("line", "auroc", table.pooled_columns[0])
    assert table.value("line", "auroc", "pooled") == table.value("line", "auroc", table.pooled_columns[2])
    with pytest.raises(UnknownNameError, match=r"unknown detector of the table 'lime'\. Did you mean 'line'"):
        table.value("lime", "auroc", "svhn")
    with pytest.raises(UnknownNameError, match="unknown column of the table 'middle mean'"):
        table.value("line", "auroc", "middle mean")
