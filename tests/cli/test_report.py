"""`oodline report`: what it writes, prints and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from oodline.cli import main
from oodline.testing import toy_run


@pytest.fixture
def place(tmp_path, monkeypatch):
    toy_run(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, code=0):
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        assert stop.code in ((0, None) if code == 0 else (code,))
    else:
        assert code == 0


def test_a_page_beside_the_run(place, capsys):
    run("report", "toy")
    out = capsys.readouterr().out
    assert "without images of origin: there is no file or folder toy origin" in out
    assert "wrote toy/report.html (" in out
    assert "<h1>toy</h1>" in Path("toy/report.html").read_text()


def test_another_place_a_detector_intervals_and_figures(place, capsys):
    run("report", "toy", "-o", "page.html", "-d", "msp", "-d", "all", "--bootstrap", 20, "--figures", "paper", "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["output"] == "page.html"
    assert document["bytes"] == Path("page.html").stat().st_size
    assert document["without_images"].keys() == {"test", "halved", "origin"}
    assert [Path(f).name for f in document["figures"]][::2] == [
        "histograms-msp.pdf", "roc-msp.pdf", "histograms-energy.pdf", "roc-energy.pdf", "risk-coverage.pdf",
    ]  # fmt: skip
    assert all(Path(f).is_file() for f in document["figures"])
    page = Path("page.html").read_text()
    assert "from 20 resamples" in page
    options = re.search(r'<select id="detector">(.*?)</select>', page, re.DOTALL)[1]
    assert re.findall("<option>(.*?)</option>", options) == ["msp", "energy"]
    assert not Path("toy/report.html").exists()


def test_tables_for_papers_with_their_intervals(place, capsys):
    run("report", "toy", "--bootstrap", 20, "--tables", "tables.md")
    assert "wrote tables.md" in capsys.readouterr().out
    lines = Path("tables.md").read_text().splitlines()
    assert lines[0] == "AUROC (higher is better), %"
    assert re.fullmatch(
        r"\| energy( \| (\*\*)?\d+\.\d\d(\*\*)? \[\d+\.\d, \d+\.\d\])+ \| \*\*\d+\.\d\d\*\* \|", lines[4]
    )
    run("report", "toy", "--tables", "tables.tex")
    assert Path("tables.tex").read_text().count("\\begin{tabular}") == sum("detector" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "nothing"], "there is no folder nothing."),
        (["report", "toy", "-d", "enregy"], "Did you mean 'energy'"),
        (["report", "toy", "--images", "-1"], "`--images` must be at least 0; got -1."),
        (["report", "toy", "--data", "elsewhere=there"], "unknown data set with images to show 'elsewhere'"),
        (["report", "toy", "--published", "cifar10"], "`--published` must be ID data and network"),
        (["report", "toy", "--published", "cifar11/densenet100"], "Did you mean 'cifar10"),
        (["report", "toy", "-o", "no/page.html"], "there is no folder no"),
        (
            ["report", "toy", "--tables", "tables.docx"],
            "`--tables` must end in .md, .tex, .csv, .json; got tables.docx.",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(place, capsys, arguments, sentence):
    run(*arguments, code=1)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert not list(place.rglob("*.html"))


def test_a_changed_run_is_refused(place, capsys):
    path = place / "toy" / "run.json"
    path.write_text(path.read_text().replace('"tpr": 0.95', '"tpr": 0.94'))
    run("report", "toy", code=1)
    assert "was changed after it was written" in capsys.readouterr().err
    assert not (place / "toy" / "report.html").exists()
