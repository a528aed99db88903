"""The page as a document: what it holds, that it escapes every name, and that it asks for nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
import torch

from oodline.errors import ArtifactError, MissingExtraError, UnknownNameError
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.evaluate import tabulate
from oodline.evaluation.metric_table import METRICS
from oodline.evaluation.metrics import compute_metrics
from oodline.evaluation.published import published_tables
from oodline.evaluation.record import DetectorEntry
from oodline.evaluation.rendering import FULL_SPECTRUM
from oodline.evaluation.run import read_run
from oodline.report.contents import read_contents
from oodline.report.gallery import gather
from oodline.report.page import render, write_page
from oodline.report.views import comparisons, method, metric_tables, script_data, settings_text, size_text
from oodline.testing import toy_run

from .conftest import EVIL, EVIL_CLASS, EVIL_LABEL


class Elements(HTMLParser):
    """Every element with its attributes, and all text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] not in ("script", "style"):
            self.text.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def page(run) -> str:
    return render(run, bootstrap=Bootstrap(20))[0]


@pytest.fixture(scope="module")
def elements(page) -> Elements:
    return Elements(page)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_no_name_in_the_data_is_markup(page, elements):
    # plotly, the script of the page, and the data, which is not code
    assert [attributes.get("type") for attributes in elements.named("script")] == ["application/json", None, None]
    assert elements.named("img") == []
    for element, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")], element
    text = "".join(elements.text)
    for name in (EVIL, EVIL_LABEL, f"{EVIL} & co"):
        assert name in text
    assert "7*7" in text
    data = data_of(page)
    assert data["detectors"][1]["label"] == EVIL_LABEL
    assert {p["label"] for p in data["pictures"]} == {EVIL_CLASS, "1", "2"}
    written = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert not set("<>&") & set(written)


def test_nothing_is_loaded_and_only_the_two_scripts_may_run(page, elements):
    assert elements.named("link") == []
    assert not [a for _, a in elements.found if set(a) & {"src", "srcset", "data", "action", "poster"}]
    assert all(a["href"].startswith("#") for a in elements.named("a"))
    [policy] = [a["content"] for a in elements.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.search("script-src ([^;]*)", policy)[1] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert page.count("plotly.js v") == 1


def test_every_control_has_a_label_and_every_reference_leads_somewhere(elements):
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    labelled = {a["for"] for a in elements.named("label")}
    for tag in ("select", "input", "textarea"):
        assert {a["id"] for a in elements.named(tag)} <= labelled
    for _, attributes in elements.found:
        for key in ("for", "aria-labelledby", "aria-describedby", "list"):
            assert set((attributes.get(key) or "").split()) <= set(ids)
    assert {a["href"][1:] for a in elements.named("a")} <= set(ids)
    regions = [a for _, a in elements.found if a.get("role") == "region"]
    assert all("aria-label" in a or "aria-labelledby" in a for a in regions)
    assert elements.named("html") == [{"lang": "en"}]
    headings = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(headings))


def test_the_tables_are_those_of_the_run_with_intervals(run):
    found = run.table(Bootstrap(20))
    assert list(found.spectra) == ["", FULL_SPECTRUM]
    assert found.cells == run.table().cells
    assert found.full_spectrum.cells == run.table().full_spectrum.cells
    [first, *_] = metric_tables(found)
    assert first.columns == ["near", "far", "mean"]
    assert first.groups == [(EVIL, 1), ("far", 1), ("", 1)]
    assert [cell.value for _, cells in first.rows for cell in cells[-1:]] == sorted(
        (found.mean(label, "auroc") for label in run.record.detectors), reverse=True
    )
    assert len(metric_tables(found)) == 2 * len(METRICS)
    for label, cells in first.rows:
        for column, cell in zip(found.columns, cells, strict=True):
            interval = found.interval(label, "auroc", column)
            assert cell.ends == (f"{100 * interval.low:.1f}", f"{100 * interval.high:.1f}")
    for place in range(3):
        column = [cells[place] for _, cells in first.rows]
        assert [c.value for c in column if c.best] == [max(c.value for c in column)]


def test_both_conventions_of_fpr_are_named_with_their_numbers(run, page):
    text = " ".join("".join(Elements(page).text).split())
    assert "FPR@95TPR, ID positive, % Share of OOD accepted where 95 % of ID is accepted" in text
    assert "FPR@95TPR, OOD positive, % Share of ID flagged where 95 % of OOD is flagged" in text
    table = run.table()
    for metric in ("auroc", "fpr95_id_positive", "fpr95_ood_positive"):
        assert f'data-value="{table.value("energy", metric, "near")}"' in page
    assert "20 resamples" in text


def test_settings_digests_versions_costs_and_reasons_are_there(run, elements):
    text = "".join(elements.text)
    record = run.record
    digests = [s.sha256 for s in record.scored] + [s.data_sha256 for s in record.sets]
    assert None not in digests
    assert len(elements.named("details")) == 1 and "open" not in elements.named("details")[0]
    assert "from an earlier run" not in text  # nothing of this run was on disk
    for expected in (*digests, record.guard_sha256, record.classifier.fingerprint, record.versions["torch"], "k=5"):
        assert expected in text
    assert "KNN(k=5000) needs at least 5000 training samples" in text
    for s in record.sets:
        assert s.spec in text
    assert f"{record.detectors[EVIL_LABEL].threshold:.6g}" in text
    assert size_text(record.detectors[EVIL_LABEL].state_bytes) in text


def test_the_page_holds_counts_and_not_the_scores_of_every_image(run, page):
    data = data_of(page)
    assert [(s["name"], s["role"], s["size"]) for s in data["sets"]] == [
        ("test", "id", 40), ("shifted", "csid", 40), ("near", "ood", 40), ("far", "ood", 40),
    ]  # fmt: skip
    for found in data["detectors"]:
        label = found["label"]
        assert found["thresholds"][found["marked"]] == run.record.detectors[label].threshold
        for s, flagged in zip(data["sets"], found["flagged"], strict=True):
            scores = run.scores(s["name"])[label]
            assert flagged == [int((scores < t).sum()) for t in found["thresholds"]]
        wrong = run.scores("test")[label][run.predicted("test") != run.labels("test")]
        assert found["wrong"] == [int((wrong < t).sum()) for t in found["thresholds"]]
        assert found["pairs"]["near"]["auroc"] == run.table().value(label, "auroc", "near")
        assert found["pairs"]["shifted"]["roc"] is None
    assert data["wrong"] == (run.predicted("test") != run.labels("test")).sum()


def test_p_values_and_thresholds_are_those_of_the_guard(run, page):
    data = data_of(page)
    calibrations = run.artifact().calibrations
    for label in run.record.detectors:
        contents = read_contents(run, label)
        assert contents.calibration.threshold == calibrations[label].threshold
        assert contents.calibration.scores.tolist() == calibrations[label].scores.tolist()
        for most, least in data["shown"][label].values():
            for place, score, p in most + least:
                picture = data["pictures"][place]
                held_out = run.scores("held-out")[label]
                assert p == (1 + (held_out <= score).sum()) / 41
                assert score in run.scores(picture["set"])[label]


def test_a_run_without_images_labels_calibration_or_ood_still_has_a_page(tmp_path):
    run = toy_run(tmp_path / "run")
    page, gallery = render(run)
    text = "".join(Elements(page).text)
    assert "None of the images could be opened where the run read them" in text
    assert "there is no file or folder toy origin" in text
    assert "This run has no calibration set. The marked threshold accepts 95 % of the ID test data itself." in text
    assert not gallery.pictures
    found = read_contents(run, "energy")
    assert found.ladder.flagged["test"][found.ladder.marked] == 3
    assert "This page was written without images" in render(run, images=0)[0]
    alone = type(run)(
        run.folder, run.record.model_copy(update={"sets": [s for s in run.record.sets if s.role == "id"]}), run.columns
    )
    text = "".join(Elements(render(alone)[0]).text)
    assert "This run has no OOD set" in text
    nothing = pa.nulls(60, pa.int64())
    unlabelled = {name: t.set_column(1, "label", nothing) for name, t in run.columns.items()}
    assert "has no labels" in "".join(Elements(render(type(run)(run.folder, run.record, unlabelled))[0]).text)


def test_risk_and_coverage_beside_ood_are_there(run):
    found = read_contents(run, "energy")
    assert found.risk[0][-1] == found.pairs["far"].risk[0][-1] == 1
    wrong = (run.predicted("test") != run.labels("test")).mean()
    assert found.risk[1][-1] == pytest.approx(wrong)
    assert found.pairs["far"].risk[1][-1] == pytest.approx((wrong * 40 + 40) / 80)


def test_published_numbers_stand_beside_ours(run):
    known = next(t for t in published_tables() if t.id == "imagenet" and "inaturalist" in t.cells.get("line", {}))
    ours, theirs = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.5])
    table = tabulate({"line": ours}, {"inaturalist": {"line": theirs}})
    line = DetectorEntry(method="line", settings={}, state_bytes=0)
    record = run.record.model_copy(update={"detectors": {"line": line}})
    this = type(run)(run.folder, record, run.columns)
    found = comparisons(this, table, "imagenet", known.network)
    [cell] = [c for c in found if (c.column, c.metric) == ("inaturalist", "auroc")]
    assert (cell.ours, cell.published) == (75.0, known.cells["line"]["inaturalist"]["auroc"])
    with pytest.raises(UnknownNameError, match="Did you mean 'imagenet'"):
        comparisons(this, table, "imagnet", "resnet50")


def test_methods_and_settings_are_told_as_people_write_them():
    nested = {"percentile": 90, "scorer": {"method": "dice", "settings": {"p": 0.9}}}
    assert method(DetectorEntry(method="react", settings=nested, state_bytes=0)) == "react,scorer=dice"
    assert settings_text(nested) == "percentile=90, scorer=dice(p=0.9)"
    sizes = [size_text(n) for n in (None, 0, 12, 1234, 5_600_000, 7e9)]
    assert sizes == ["-", "0", "12 B", "1.2 kB", "5.6 MB", "7.0 GB"]


def test_full_spectrum_tables_count_shifted_images(run):
    wide = run.table().full_spectrum
    both = np.concatenate([run.scores("test")["energy"], run.scores("shifted")["energy"]])
    assert wide.cells["energy"]["far"] == compute_metrics(both, run.scores("far")["energy"])


def test_a_changed_run_has_no_page(tmp_path):
    run = toy_run(tmp_path / "run")
    path = run.folder / "scores" / "origin.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        write_page(read_run(run.folder), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_missing_package_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"reports need the package 'jinja2'.*oodline\[report\]"):
        write_page(run, tmp_path / "report.html")


def test_script_data_does_not_grow_with_the_images(run):
    contents = {"energy": read_contents(run, "energy")}
    small = len(json.dumps(script_data(run, contents, gather(run, ["energy"], images=0))))
    many = {name: pa.concat_tables([table] * 50) for name, table in run.columns.items()}
    larger = type(run)(run.folder, run.record, many)
    contents = {"energy": read_contents(larger, "energy")}
    assert len(json.dumps(script_data(larger, contents, gather(larger, ["energy"], images=0)))) < 3 * small
