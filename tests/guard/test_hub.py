"""A guard as a folder with a model card, and on a Hub that a thread of this process plays."""

from __future__ import annotations

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import oodline as ol
from oodline.errors import ArtifactError, DataError, MismatchError, MissingExtraError, SettingError
from oodline.guard.model_card import BEGIN, END, section
from oodline.testing import toy_loader, toy_problem

CLASSIFIER, TRAIN = toy_problem()


@pytest.fixture(scope="module")
def guard():
    return ol.Guard(CLASSIFIER, ol.KNN(k=3).fit(CLASSIFIER, TRAIN)).calibrate(toy_loader(seed=1), false_alarm=0.05)


def same(first, second):
    x = toy_loader(seed=2)[0][0]
    return all(torch.equal(getattr(first(x), name), getattr(second(x), name)) for name in ("score", "threshold"))


def test_a_folder_holds_the_guard_and_says_what_it_promises(tmp_path, guard):
    table = ol.evaluate(guard.detector, CLASSIFIER, toy_loader(seed=2), {"origin": [torch.zeros(20, 4)]})
    guard.save_pretrained(tmp_path / "made", data="three toy classes", table=table)
    assert same(ol.Guard.from_pretrained(tmp_path / "made", CLASSIFIER), guard)
    card = (tmp_path / "made" / "README.md").read_text()
    for line in (
        "library_name: oodline",
        "- ood-detection",
        "An ID input is flagged with probability at most 5 %, as long as it\ncomes from where the 60 held-out inputs",
        "| detector | `knn` |",
        "[arXiv 2204.06507](https://arxiv.org/abs/2204.06507)",
        "| data | three toy classes |",
        f"| threshold | {guard.calibration.threshold:.6g}; a higher score means more in-distribution |",
        "| classifier | 3 classes, 16 features |",
        "### AUROC, % (higher is better)",
        table.to_markdown("fpr95_id_positive"),
    ):
        assert line in card


def test_a_card_that_is_there_keeps_what_it_says(tmp_path, guard):
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags:\n- vision\n---\n# Toys\n\nMine.\n")
    guard.save_pretrained(tmp_path, data="first")
    guard.save_pretrained(tmp_path, data="second")
    card = (tmp_path / "README.md").read_text()
    assert "license: mit" in card
    assert "- vision\n- oodline" in card
    assert card.count("# Toys\n\nMine.") == card.count("| data |") == card.count("| data | second |") == 1


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        (b"\xff\xfe", "must be UTF-8"),
        (b"---\na: [\n---\n", "the metadata of the model card cannot be read: while parsing"),
        (b"---\n- a\n---\n", "cannot be read: repo card metadata block should be a dict"),
        (b"---\n3: a\n---\n", "cannot be read: .*keywords must be strings"),
        (b"---\ntags: 3\n---\n", "`tags` of the model card must be a list of words; got 3"),
        (f"---\nlicense: mit\n---\n{BEGIN}\nMine.\n".encode(), "one of them is missing"),
    ],
)
def test_a_card_that_cannot_be_read_is_left_and_nothing_is_written(tmp_path, guard, card, sentence):
    (tmp_path / "README.md").write_bytes(card)
    with pytest.raises(DataError, match=rf"README.md.*{sentence}"):
        guard.save_pretrained(tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("README.md", card)]


def test_what_is_quoted_in_a_card_ends_neither_row_nor_section(tmp_path, guard):
    (tmp_path / "README.md").write_text("---\ntags: vision\nmodel-index: odd\n---\nMine.\n")
    table = ol.evaluate(guard.detector, CLASSIFIER, toy_loader(seed=2), {"c | d\ne": [torch.zeros(20, 4)]})
    for _ in range(2):
        guard.save_pretrained(tmp_path, data=f"a | b\n{END}\n{BEGIN}", table=table)
    card = (tmp_path / "README.md").read_text()
    assert f"| data | a \\| b {END} {BEGIN} |".replace("<!--", "&lt;!--") in card
    assert card.count("| detector | c \\| d e |") == 3
    assert card.startswith("---\ntags:\n- vision\n- oodline\n- ood-detection\nmodel-index: odd\n---\nMine.\n")
    assert card.count(BEGIN) == card.count(END) == 1
    for wrong in ({"data": 3}, {"table": "a table"}):
        with pytest.raises(SettingError, match="must be"):
            guard.save_pretrained(tmp_path, **wrong)
    with pytest.raises(SettingError, match="`private` must be"):
        guard.push_to_hub("me/guard", private="no")
    with pytest.raises(SettingError, match="`classifier` must be"):
        ol.Guard.from_pretrained(tmp_path, 3)


def test_a_card_that_is_a_folder_leaves_no_guard(tmp_path, guard):
    (tmp_path / "README.md").mkdir()
    with pytest.raises(DataError, match="it is a folder"):
        guard.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_card_of_thresholds_by_class_and_of_none():
    held_out = [batch for seed in range(1, 6) for batch in toy_loader(seed)]
    by_class = ol.Guard(CLASSIFIER, ol.Energy()).calibrate(held_out, by="predicted")
    text = section(by_class)
    assert "at most 5 %, for each predicted class with enough of them" in text
    assert ", by class; a higher score" in text
    assert "It has no threshold yet" in section(ol.Guard(CLASSIFIER, ol.Energy()))
    by_class.other_weights = "only rounded"
    assert "so it promises nothing: only rounded" in section(by_class)
    assert "with probability" not in section(by_class)


def test_what_is_not_there(tmp_path, guard, monkeypatch):
    with pytest.raises(ArtifactError, match=r"has no guard.safetensors. Write one with guard.save_pretrained"):
        ol.Guard.from_pretrained(tmp_path, CLASSIFIER)
    guard.save_pretrained(tmp_path)
    with pytest.raises(MismatchError, match="other weights"):
        ol.Guard.from_pretrained(tmp_path, toy_problem(seed=5)[0])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="could not make the folder"):
        guard.save_pretrained(tmp_path / "file")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (
        lambda: guard.save_pretrained(tmp_path),
        lambda: guard.push_to_hub("me/guard"),
        lambda: ol.Guard.from_pretrained("me/guard", CLASSIFIER),
    ):
        with pytest.raises(MissingExtraError, match=r"oodline\[hub\]"):
            use()


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a push and a download of small files ask for."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    commits: list[str]
    made: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.made.append(json.loads(body)["name"])
            self._json({"url": f"http://{self.headers['Host']}/me/guard"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.commits.append(line["value"]["summary"])
                else:
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            oid = f"{len(self.commits):040}"
            self._json(
                {"commitUrl": f"http://{self.headers['Host']}/me/guard/commit/{oid}", "commitOid": oid, "success": True}
            )
        else:
            self._json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        content = self.files.get(self.path.rpartition("/")[2]) if self.path.startswith("/me/guard/resolve/") else None
        if content is None:
            known = self.path.startswith("/me/new/") and "new" not in self.made
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound" if known else "EntryNotFound"})
        else:
            commit = f"{len(self.commits):040}"
            self._answer(200, content, {"ETag": f'"{hash(content):x}"', "X-Repo-Commit": commit})

    def _json(self, answer: object) -> None:
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    Hub.files, Hub.commits, Hub.made = {}, [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_guard_goes_to_the_hub_and_comes_back(endpoint, guard):
    Hub.files["README.md"] = b"---\nlicense: mit\n---\nThe classifier.\n"
    commit = guard.push_to_hub("me/guard", data="toys", token="hf_none", endpoint=endpoint)
    assert commit.startswith(f"{endpoint}/me/guard/commit/")
    assert Hub.commits == ["Add a guard of oodline"]
    assert "The classifier." in Hub.files["README.md"].decode()
    assert "| data | toys |" in Hub.files["README.md"].decode()
    assert same(ol.Guard.from_pretrained("me/guard", CLASSIFIER, token="hf_none", endpoint=endpoint), guard)
    with pytest.raises(ArtifactError, match=r"no guard could be read from me/other\. .*EntryNotFoundError"):
        ol.Guard.from_pretrained("me/other", CLASSIFIER, token="hf_none", endpoint=endpoint)


def test_a_repository_is_made_once_there_is_something_for_it(endpoint, guard):
    guard.push_to_hub("me/new", token="hf_none", endpoint=endpoint)
    assert (Hub.made, sorted(Hub.files)) == (["new"], ["README.md", "guard.safetensors"])
    Hub.files["README.md"], Hub.made[:] = b"\xff", []
    with pytest.raises(DataError, match="must be UTF-8"):
        guard.push_to_hub("me/guard", token="hf_none", endpoint=endpoint)
    assert (Hub.made, Hub.files["README.md"]) == ([], b"\xff")


def test_a_name_that_no_repository_can_have(endpoint, guard):
    with pytest.raises(DataError, match="could not push to a b: HFValidationError"):
        guard.push_to_hub("a b", token="hf_none", endpoint=endpoint)
