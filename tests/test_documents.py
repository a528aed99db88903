"""The Python in README, CONTRIBUTING and docs runs as it stands, the commands parse, and links lead somewhere."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import oodline as ol
from oodline.cli import app
from oodline.cli.config import ENVIRONMENT, ConfigFile
from oodline.cli.methods import methods
from oodline.detectors.catalog import CATALOG
from oodline.testing import toy_problem

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md") if not {"generated", "_build"} & set(p.parts))
DOCUMENTS = [str(path.relative_to(ROOT)) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)]
README_BYTES = 7000


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


ELSEWHERE = ("CONTRIBUTING.md", "docs/guide/integrations.md", "docs/guide/training.md")
"""Run with what they need, here, in tests/integrations and in tests/training."""
WITH_PYTHON = [name for name in DOCUMENTS if blocks(name, "python") and name not in ELSEWHERE]


@pytest.mark.parametrize("document", WITH_PYTHON)
def test_the_python_of_a_page_runs_as_it_stands(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))
    names = vars(sys.modules["page"])
    for block in blocks(document, "python"):
        exec(compile(block, document, "exec"), names)
    assert all(isinstance(names[key], kind) for key, kind in (("guard", ol.Guard), ("table", ol.Table)) if key in names)


def check_guard(names):
    assert names["flagged"]["digits 0 to 7"] < 0.1 < 0.5 < names["flagged"]["digits 8 and 9"]


def check_table(names):
    assert names["table"].value("fuse", "auroc", "8 and 9") > 0.9


def check_promise(names):
    assert sum(names["rates"]) / len(names["rates"]) < 0.11
    assert names["before"].alarm_at is None
    assert names["after"].alarm_at > names["before"].seen


NOTEBOOKS = {
    "calibrate_watch_explain": check_promise,
    "compare_detectors": check_table,
    "guard_your_classifier": check_guard,
}


def test_every_notebook_is_run():
    assert {path.stem for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")} == NOTEBOOKS.keys()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    document = json.loads((ROOT / "docs" / "notebooks" / f"{name}.ipynb").read_text())
    names: dict[str, object] = {}
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), names)
            assert not any(output["output_type"] == "error" for output in cell["outputs"])
    NOTEBOOKS[name](names)


def test_the_detector_of_contributing_keeps_the_contract():
    [block] = blocks("CONTRIBUTING.md", "python")
    names: dict[str, object] = {"__name__": "contributed"}
    exec(compile(block.replace("from __future__ import annotations\n", ""), "CONTRIBUTING.md", "exec"), names)
    detector = names["ClassMean"]()
    classifier, loader = toy_problem()
    ol.fit([detector, ol.LINe()], classifier, loader)
    features, labels = classifier(loader[0][0]).features, loader[0][1]
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    expected = -(features[:, None] - means).norm(dim=2).min(1).values
    torch.testing.assert_close(detector(classifier(loader[0][0])), expected)


def test_the_page_of_methods_is_what_the_command_prints(capsys):
    methods(markdown=True)
    assert (ROOT / "docs" / "methods.md").read_text() == capsys.readouterr().out


def test_every_detector_is_in_a_group_of_the_guide():
    page = (ROOT / "docs" / "guide" / "detectors.md").read_text()
    table = page[page.index("| what it looks at") :].split("\n\n")[0]
    assert sorted(re.findall(r"`([a-z0-9-]+)`", table)) == sorted(CATALOG)


def test_the_generated_pages_have_every_public_name_and_detector(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    generate = importlib.import_module("generate")
    generate.write_all(tmp_path / "pages")
    assert {path.stem for path in (tmp_path / "pages" / "detectors").iterdir()} == {*CATALOG, "index"}
    assert {path.stem for path in (tmp_path / "pages" / "api").iterdir()} == {
        *generate.api_names(),
        *generate.MODULES,
        "index",
    }
    line = (tmp_path / "pages" / "detectors" / "line.md").read_text()
    assert "| `imagenet-resnet50` | `p_a=0.1`, `p_w=0.1`, `clip=0.8` |" in line and "| resnet20_cifar10 |" in line
    assert "POST `/v1/predict`" in (tmp_path / "pages" / "http.md").read_text()


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES


def commands(document: str) -> list[list[str]]:
    lines = [line for block in blocks(document, "sh") for line in block.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("oodline ")]
    return [words for words in split if not any(re.fullmatch(r"\$\w+", word) for word in words)]  # of several options


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if commands(name)])
def test_the_commands_of_a_document_parse(document):
    for arguments in commands(document):
        command, _, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert command.__name__ == arguments[0]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_links_of_a_document_lead_to_files(document):
    path = ROOT / document
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, _ = target.partition("#")
        if not file or re.match(r"[a-z]+:", file) or "generated/" in file:  # made by `make site`, which checks them
            continue
        assert (path.parent / file).exists(), target


def test_the_file_of_options_of_the_page_is_read(tmp_path):
    [text] = blocks("docs/guide/command-line.md", "toml")
    (tmp_path / "o.toml").write_text(text)
    before, app.config = app.config, (ENVIRONMENT, ConfigFile(tmp_path / "o.toml"))
    try:
        _, bound, _ = app.parse_args(["fit", "-o", "g.safetensors"], exit_on_error=False, print_error=False)
    finally:
        app.config = before
    assert (bound.arguments["data"], bound.arguments["false_alarm"]) == ("imagenet/train", 0.01)
    assert bound.arguments["model"].model == tomllib.loads(text)["model"]
