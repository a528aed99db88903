"""Options from a TOML file and from the environment: which wins, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodline.cli import COMMANDS, app, main
from oodline.cli.config import configured, take_config
from oodline.errors import SettingError

SCORE = ["score", "g.safetensors", "images", "-o", "s.csv"]


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = app.config
    yield
    app.config = before


def parsed(*tokens):
    """The arguments that a command would be called with."""
    rest, file = take_config(list(tokens))
    app.config = configured(file)
    return app.parse_args(rest, exit_on_error=False, print_error=False)[1].arguments


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch):
    Path("oodline.toml").write_text(
        'model = "timm:resnet18"\nbatch-size = 32\nlimit = 100\nheld-out = "of another command"\n'
        'preprocessing = {resize = 32, mean = [0.5]}\n[score]\nlimit = 7\ndevice = "cpu"\n[fit]\nlimit = 8\n'
    )
    monkeypatch.setenv("OODLINE_BATCH_SIZE", "16")
    monkeypatch.setenv("OODLINE_WEIGHTS", "w.pt")
    found = parsed(*SCORE, "--weights", "mine.pt")
    assert (found["model"].model, found["model"].weights) == ("timm:resnet18", Path("mine.pt"))
    assert (found["reading"].batch_size, found["reading"].limit, found["running"].device) == (16, 7, "cpu")
    assert found["model"].preprocessing == '{"resize": 32, "mean": [0.5]}'
    assert parsed("fit", "--data", "d", "-o", "o")["reading"].limit == 8
    assert parsed("explain", "g", "i")["model"].weights == Path("w.pt")


def test_a_named_file_stands_in_for_the_usual_one_and_gives_required_options():
    Path("oodline.toml").write_text("limit = 1\n")
    Path("other.toml").write_text(
        '[fit]\ndata = "train"\noutput = "g.safetensors"\ndetector = ["line", "energy,temperature=2"]\n'
    )
    for tokens in (["fit", "--config", "other.toml"], ["--config=other.toml", "fit"]):
        found = parsed(*tokens)
        assert (found["data"], found["output"]) == ("train", Path("g.safetensors"))
        assert found["detector"] == ["line", "energy,temperature=2"]
        assert "reading" not in found
    assert parsed("fit", "--config", "other.toml", "-d", "knn")["detector"] == ["knn"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limt = 3", "unknown option in o.toml: 'limt'. Did you mean 'limit'?"),
        ("[score]\nheld-out = 'x'", "unknown option in [score] of o.toml: 'held-out'. Known: allow-other"),
        ("[score]\nlimit = 'many'", "Invalid value for [limit] from o.toml"),
        ("score = 3", "`score` in o.toml must be a table, [score]; got 3."),
        ("a = [", "o.toml is not TOML"),
        ("model = 'python:m.py:build'", "`model` in o.toml names code to run, python:m.py:build, and a file may not"),
        ("detectors-from = ['mine.py']", "`detectors-from` in o.toml names code to run, mine.py"),
        ("[score]\ndata = 'hf:x,trust_remote_code=true'", "`data` in o.toml names code to run"),
        ("[score]\nlimit = 10.7", "`--limit` must be a whole number; got 10.7."),
        ("allow_other_weights = true", "`allow_other_weights` must not be in o.toml: it is for one run."),
        ("model = true", "`model` in o.toml must be text or a number; got true"),
        ("model = 2020-01-01", "`model` in o.toml must be text or a number; got 2020-01-01. Put it in quotes."),
        ("preprocessing = {resize = 2020-01-01}", "`preprocessing` in o.toml must hold no date"),
        (None, "there is no file o.toml. Check --config"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(capsys, text, message):
    if text is not None:
        Path("o.toml").write_text(text)
    words = SCORE if "data =" not in (text or "") else [*SCORE[:2], *SCORE[3:]]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--config", "o.toml"])
    assert stop.value.code in (1, 2)
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FALSE_ALRM", "0.1", "unknown environment variable 'OODLINE_FALSE_ALRM'. Did you mean 'OODLINE_FALSE_ALARM'?"),
        ("LABEL_OFFSET", "0.6", "`--label-offset` must be a whole number; got 0.6."),
        ("ALLOW_OTHER_WEIGHTS", "because", "OODLINE_ALLOW_OTHER_WEIGHTS must not be set: it is for one run."),
        ("CONFIG", "none.toml", "there is no file none.toml. Check --config and OODLINE_CONFIG."),
    ],
)
def test_a_wrong_variable_is_an_error(capsys, monkeypatch, name, value, message):
    monkeypatch.setenv(f"OODLINE_{name}", value)
    with pytest.raises(SystemExit):
        main(SCORE)
    assert message in capsys.readouterr().err


def test_a_variable_names_the_file_and_gives_one_value_with_its_spaces(monkeypatch):
    Path("other.toml").write_bytes(b"\xef\xbb\xbflimit = 3\n")  # with the mark that editors of Windows write
    monkeypatch.setenv("OODLINE_CONFIG", "other.toml")
    monkeypatch.setenv("OODLINE_OOD", "my images")
    monkeypatch.setenv("OODLINE_TOKEN", "of the service")
    found = parsed("evaluate", "g", "--id", "i")
    assert (found["ood"], found["reading"].limit) == (["my images"], 3)
    with pytest.raises(SettingError, match=r"`--limit` must be a whole number; got 10\.7\."):
        parsed(*SCORE, "--limit", "10.7")
    assert parsed(*SCORE, "--limit", "10.0")["reading"].limit == 10


def test_help_explains_the_file_and_shows_commands_in_groups(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "oodline.toml in the working folder, or --config FILE" in shown and "OODLINE_MODEL" in shown
    places = [shown.index(f" {name} {line.split()[0]}") for name, line in COMMANDS.items()]
    assert places == sorted(places)
    assert shown.index("─ Use ─") < places[0] < shown.index("─ Deploy ─") < shown.index("─ Research ─") < places[-1]


def test_completion_knows_commands_and_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))  # whose .bashrc gets a line
    with pytest.raises(SystemExit):
        main(["--install-completion", "--shell", "bash", "--output", str(tmp_path / "completion")])
    script = (tmp_path / "completion").read_text()
    assert script == app.generate_completion(prog_name="oodline", shell="bash")
    assert f"local all_commands='{' '.join(sorted(COMMANDS))}'" in script
    assert "--false-alarm" in script
    assert str(tmp_path / "completion") in (tmp_path / ".bashrc").read_text()
