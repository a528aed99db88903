"""The pages of docs/guide: their commands parse, their Python runs, their TOML is read."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import oodline as ol
from oodline.cli import app
from oodline.cli.config import ENVIRONMENT, ConfigFile
from oodline.testing import toy_problem

PAGES = sorted((Path(__file__).parents[1] / "docs" / "guide").glob("*.md"))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_parse(page):
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("oodline ")]
    for line in lines:
        _, *arguments = shlex.split(line)
        command, _, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert command.__name__ == arguments[0]


def test_the_python_of_the_page_of_the_command_line_runs(capsys):
    page = next(page for page in PAGES if page.stem == "command-line")
    classifier, _ = toy_problem()
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {"ol": ol, "classifier": classifier, "train_loader": None})
    assert capsys.readouterr().out.startswith("head:")


def test_the_file_of_options_of_the_page_is_read(tmp_path):
    page = next(page for page in PAGES if page.stem == "command-line")
    [text] = blocks(page, "toml")
    (tmp_path / "o.toml").write_text(text)
    before, app.config = app.config, (ENVIRONMENT, ConfigFile(tmp_path / "o.toml"))
    try:
        _, bound, _ = app.parse_args(["fit", "-o", "g.safetensors"], exit_on_error=False, print_error=False)
    finally:
        app.config = before
    assert (bound.arguments["data"], bound.arguments["false_alarm"]) == ("imagenet/train", 0.01)
    assert bound.arguments["model"].model == tomllib.loads(text)["model"]
