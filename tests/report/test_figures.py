"""Figures for papers: drawn from the run's numbers, the same bytes each time, told apart without colour."""

from __future__ import annotations

import sys
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from oodline._util.drawing import ID, LINES, OOD
from oodline.errors import DataError, MissingExtraError, UnknownNameError
from oodline.evaluation.metrics import auroc
from oodline.evaluation.risk_coverage import risk_coverage
from oodline.report.contents import read_contents
from oodline.report.figures import _free, draw_histograms, draw_risk, draw_roc, write_figures

from .conftest import EVIL, EVIL_LABEL


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    (folder / "paper.tex").write_text("mine")
    return write_figures(run, folder, detectors=[EVIL_LABEL])


def test_each_figure_is_a_pdf_and_a_png_and_names_are_those_of_files(written):
    evil = "___script_window.bad++_amp____7_7___"
    assert [path.name for path in written] == [
        f"{name}.{ending}"
        for name in (f"histograms-{evil}", f"roc-{evil}", "risk-coverage")
        for ending in ("pdf", "png")
    ]
    for path in written:
        if path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF")
        else:
            with Image.open(path) as image:
                assert image.width > 400
    assert (written[0].parent / "paper.tex").read_text() == "mine"


def test_the_same_run_gives_the_same_bytes_whatever_the_users_style(run, written, tmp_path):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.grid": True}):
        again = write_figures(run, tmp_path, detectors=[EVIL_LABEL])
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_two_names_that_are_the_same_as_files_are_two_files():
    assert _free("a", {"roc-b": 1}) == "a"
    assert _free("a", {"histograms-a": 1, "roc-a_": 1}) == "a__"


def test_the_lines_are_the_curves(run):
    found, ours = read_contents(run, "energy"), run.scores("test")["energy"]
    [axes] = draw_roc(run, "energy", found).axes
    assert [line.get_label() for line in axes.lines] == [
        f"{name} ({group}) {100 * auroc(ours, run.scores(name)['energy']):.1f}"
        for name, group in (("near", f"{EVIL[:11]}…"), ("far", "far"))
    ]
    x, y = axes.lines[0].get_data()
    assert np.trapezoid(y, x) == pytest.approx(found.pairs["near"].auroc, abs=0.01)
    histograms = draw_histograms(run, "energy", found)
    titles = [axes.get_title() for axes in histograms.axes]
    assert titles == ["shifted (shifted ID)", f"near ({EVIL[:11]}…)", "far (far)"]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in histograms.axes}) == 1
    for axes, pair in zip(histograms.axes, found.pairs.values(), strict=True):
        filled, outlined = axes.patches[:2]
        assert filled.get_data().values.sum() == pytest.approx(1)
        assert outlined.get_data().values == pytest.approx(pair.bins.other / 40)
    both, alone = draw_risk(run, ["energy"]).axes
    everything = np.concatenate([run.scores("near")["energy"], run.scores("far")["energy"]])
    right = run.predicted("test") == run.labels("test")
    aurc = risk_coverage(ours, right, everything).aurc
    assert both.lines[0].get_label() == f"energy {aurc:.3f}"
    assert alone.lines[0].get_label() == f"energy {risk_coverage(ours, right).aurc:.3f}"
    assert both.lines[0].get_xdata()[0] == 20 / 120
    assert alone.lines[0].get_xdata()[0] == 20 / 40


def test_a_figure_without_matplotlib_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"'matplotlib'.*oodline\[report\]"):
        write_figures(run, tmp_path)


def test_the_page_has_the_colours_of_the_figures():
    sheet = (files("oodline.report") / "assets" / "page.css").read_text()
    assert f"--id: {ID}; --ood: {OOD};" in sheet


def test_no_two_lines_are_told_apart_by_colour_alone():
    assert len({str(pattern) for _, pattern in LINES}) == len(LINES)


def test_an_unknown_detector_and_a_folder_that_cannot_be_made_are_said(run, tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'energy'"):
        write_figures(run, tmp_path, detectors=["enegry"])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not make the folder"):
        write_figures(run, tmp_path / "file" / "figures")
