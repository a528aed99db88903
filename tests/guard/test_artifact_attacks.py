"""Files that someone made to do harm: each is refused with its sentence, in little memory, and nothing in it runs.

The digest is not a signature: whoever makes such a file can make the digest fit, and most of these do.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import oodline as ol
from oodline._util.tensor_file import MAX_HEADER
from oodline.detectors.catalog import CATALOG, create_detector
from oodline.errors import ArtifactError, MismatchError
from oodline.guard.artifact import FORMAT_VERSION, MAX_SIZE, _digest, read_artifact
from oodline.testing import toy_loader, toy_problem

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A good file, the header it has, and the classifier it is for."""
    classifier, loader = toy_problem()
    detector = ol.LINe(p_a=0.5, p_w=0.5, clip=5.0)
    neurons = ol.Neurons(samples=2)
    ol.fit([detector, neurons], classifier, loader)
    guard = ol.Guard(classifier, detector, class_names=tuple("abc"), neurons=neurons)
    path = guard.calibrate(toy_loader(seed=1)).save(tmp_path_factory.mktemp("good") / "guard.safetensors")
    return path.read_bytes(), classifier


@pytest.fixture
def refused(made, tmp_path):
    """Write this content to a file and read it: it must be refused with these words, and without much memory."""

    def check(content, words):
        path = tmp_path / "guard.safetensors"
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=words) as error, little_memory(len(content)):
            ol.Guard.load(path, made[1])
        sentence = str(error.value)
        assert str(path) in sentence or "does not fit its classifier" in sentence
        assert len(sentence) < 1500
        assert sentence.endswith(".")

    return check


@contextmanager
def little_memory(size):
    """The process may grow by the file's own size a few times, and a little."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kilobytes(name):
        return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])

    if not os.access(reset, os.W_OK):
        yield
        return
    reset.write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    yield
    assert (kilobytes("VmHWM") - before) * 1024 < 8 * size + 64 * MEGABYTE


def parts(content):
    """Header, as it is parsed, and the data after it."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def whole(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def resigned(content, change):
    """Let `change(manifest, tensors)` edit a file, and mend its digest."""
    tensors = load(content)
    manifest = json.loads(parts(content)[0]["__metadata__"]["oodline"])
    change(manifest, tensors)
    manifest["sha256"] = _digest(manifest, tensors)
    return save(tensors, {"oodline": json.dumps(manifest)})


def test_the_file_that_the_attacks_change_is_good(made, tmp_path):
    content, classifier = made
    for same in (content, resigned(content, lambda *_: None)):
        path = tmp_path / "guard.safetensors"
        path.write_bytes(same)
        assert ol.Guard.load(path, classifier)(torch.zeros(1, 4)).is_ood.tolist() == [True]


class Bomb:
    """What runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_under_another_name_is_refused_and_does_not_run(refused, tmp_path):
    for content in (pickle.dumps(Bomb(tmp_path / "ran")), pickle.dumps(Bomb(tmp_path / "ran"), protocol=0)):
        refused(content, "no safetensors file, or damaged|truncated")
    file = io.BytesIO()
    torch.save({"detector": Bomb(tmp_path / "ran")}, file)
    refused(file.getvalue(), "no safetensors file, or damaged")
    assert not (tmp_path / "ran").exists()


def test_a_zip_is_refused(refused, made):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../guard.safetensors", made[0])
        archive.writestr("zeros", bytes(10**7))
    refused(file.getvalue(), "no safetensors file, or damaged")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, MAX_HEADER + 1])
def test_a_header_that_would_be_huge_is_refused(refused, made, length):
    words = rf"its header would have {length} bytes, of {MAX_HEADER} at most"
    refused(struct.pack("<Q", length) + made[0][8:], words)
    if length < 2**30:  # and where the bytes are there
        refused(struct.pack("<Q", length) + b"{" + b" " * length, words)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "its header is not what it should be"),
        (b"[]", "its header is not a JSON object"),
        (b"{" * 5000, "its header is not what it should be"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "its header is not what it should be: it is nested too deeply"),
        (b"\xff\xfe", "its header is not what it should be"),
        (b'{"a": ' + b"9" * 5000 + b"}", "its header is not what it should be"),
        (b'{"x": 1}', "the tensor 'x' of .* holds nothing known"),
    ],
    ids=["empty", "a list", "not closed", "deep", "no text", "a long number", "a number for a tensor"],
)
def test_a_header_that_is_none_is_refused(refused, made, header, words):
    refused(whole(header, parts(made[0])[1]), words)


def shifted(entry, size):
    return {**entry, "data_offsets": [place + 8 for place in entry["data_offsets"]]}


def overlapping(entry, size):
    return {**entry, "data_offsets": [0, entry["data_offsets"][1] - entry["data_offsets"][0]]}


def beyond_the_end(entry, size):
    return {**entry, "data_offsets": [size, 2 * size]}


def backwards(entry, size):
    return {**entry, "data_offsets": entry["data_offsets"][::-1]}


def negative(entry, size):
    return {**entry, "data_offsets": [-8, 0]}


def huge(entry, size):
    return {**entry, "shape": [2**40, 2**10]}


def overflowing(entry, size):
    return {**entry, "shape": [2**62, 4, 16]}


def fractional(entry, size):
    return {**entry, "shape": [1.5]}


@pytest.mark.parametrize(
    "change", [shifted, overlapping, beyond_the_end, backwards, negative, huge, overflowing, fractional]
)
def test_sizes_and_places_that_are_not_the_files_are_refused(refused, made, change):
    header, data = parts(made[0])
    for name in [key for key in header if key != "__metadata__"][::3]:
        changed = change(header[name], len(data))
        if changed != header[name]:
            refused(whole({**header, name: changed}, data), "no safetensors file, or damaged|truncated")


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F8_E4M3", "U64", "I32", "C64", "PICKLE", None, 7])
def test_kinds_of_numbers_that_oodline_never_writes_are_refused_before_they_are_read(refused, made, dtype):
    header, data = parts(made[0])
    name = "detector/line/threshold"
    refused(whole({**header, name: {**header[name], "dtype": dtype}}, data), rf"'{name}' of .* holds {dtype}; oodline")


def test_a_key_that_stands_twice_is_refused_in_header_metadata_and_manifest(refused, made):
    header, data = parts(made[0])
    text = json.dumps(header)
    name = "detector/line/threshold"
    twice = text[:-1] + f', "{name}": {json.dumps(header[name])}}}'
    refused(whole(twice.encode(), data), rf"the key '{name}' stands there twice")
    twice = text[:-1] + f', "__metadata__": {json.dumps(header["__metadata__"])}}}'
    refused(whole(twice.encode(), data), "the key '__metadata__' stands there twice")
    manifest = header["__metadata__"]["oodline"]
    twice = manifest[:-1] + ', "model": {"reference": "python:evil.py:run"}}'
    refused(whole({**header, "__metadata__": {"oodline": twice}}, data), "the key 'model' stands there twice")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("", "is not a valid JSON document"),
        ("[]", "it has no format version"),
        ("null", "it has no format version"),
        ('{"format_version": "2"}', "it has no format version"),
        ('{"format_version": -1}', "it has no format version"),
        ('{"format_version": 1e999}', "it has no format version"),
        ('{"format_version": ' + "9" * 5000 + "}", "is not a valid JSON document"),
        ('{"format_version": 2, "a": ' + "[" * 100_000, "nested too deeply"),
        ('{"format_version": 2, "a": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, "nested too deeply"),
        ('{"format_version": 2}', "was changed after it was written"),
        (json.dumps({"format_version": FORMAT_VERSION + 1, "new": 1}), "Upgrade oodline"),
        ('{"format_version": 99999999999999999999}', "Upgrade oodline"),
    ],
    ids=range(12),
)
def test_a_manifest_that_is_none_is_refused(refused, made, manifest, words):
    header, data = parts(made[0])
    refused(whole({**header, "__metadata__": {"oodline": manifest}}, data), words)


def test_metadata_that_are_no_text_are_refused(refused, made):
    header, data = parts(made[0])
    for metadata in ([], "text", {"oodline": 7}, {"oodline": {"format_version": 2}}):
        refused(whole({**header, "__metadata__": metadata}, data), "no safetensors file, or damaged")


def deep_members(manifest, tensors):
    record = {"method": "energy", "settings": {}}
    for _ in range(300):
        record = {"method": "react", "settings": {"scorer": record}}
    manifest["detectors"]["line"] = record


def many_classes(manifest, tensors):
    manifest["head"]["num_classes"] = 10**12


def many_classes_by_class(manifest, tensors):
    manifest["head"]["num_classes"] = MAX_SIZE + 1
    manifest["calibrations"]["line"]["by"] = "predicted"
    tensors["predicted/line"] = torch.zeros(60).long()


def no_class(manifest, tensors):
    manifest["head"]["num_classes"] = 0


def another_rate(manifest, tensors):
    manifest["calibrations"]["line"]["false_alarm"] = 2.0


def a_threshold_that_flags_nothing(manifest, tensors):
    manifest["calibrations"]["line"]["threshold"] = float("-inf")


def a_threshold_of_nan(manifest, tensors):
    manifest["calibrations"]["line"]["threshold"] = float("nan")


def scores_of_infinity(manifest, tensors):
    tensors["calibration/line"][-1] = float("inf")


def no_scores(manifest, tensors):
    tensors["calibration/line"] = torch.zeros(0, dtype=torch.float64)


def code_for_a_detector(manifest, tensors):
    manifest["detectors"]["line"]["method"] = "os:system"


def a_path_for_a_detector(manifest, tensors):
    manifest["detectors"]["line"]["method"] = "../../../../etc/passwd"


def a_setting_that_is_none(manifest, tensors):
    manifest["detectors"]["line"]["settings"]["p_a"] = "__import__('os').system('true')"


def an_unknown_setting(manifest, tensors):
    manifest["detectors"]["line"]["settings"]["__class__"] = "x"


def an_unknown_field(manifest, tensors):
    manifest["run"] = "rm -rf /"


def a_path_for_a_tensor(manifest, tensors):
    tensors["../../../../tmp/evil"] = torch.zeros(2)


def a_path_below_the_detector(manifest, tensors):
    tensors["detector/line/../../evil"] = torch.zeros(2)


def neurons_that_are_not_named(manifest, tensors):
    manifest["neurons"] = False


def a_tensor_that_is_missing(manifest, tensors):
    del tensors["detector/line/threshold"]


def a_calibration_of_nobody(manifest, tensors):
    manifest["calibrations"]["nobody"] = manifest["calibrations"]["line"]


def huge_preprocessing(manifest, tensors):
    manifest["preprocessing"] = {"resize": -5}


def a_preprocessing_of_code(manifest, tensors):
    manifest["preprocessing"] = {"interpolation": "os.system"}


@pytest.mark.parametrize(
    "change",
    [
        deep_members,
        many_classes,
        many_classes_by_class,
        no_class,
        another_rate,
        a_threshold_that_flags_nothing,
        a_threshold_of_nan,
        scores_of_infinity,
        no_scores,
        code_for_a_detector,
        a_path_for_a_detector,
        a_setting_that_is_none,
        an_unknown_setting,
        an_unknown_field,
        a_path_for_a_tensor,
        a_path_below_the_detector,
        neurons_that_are_not_named,
        a_tensor_that_is_missing,
        a_calibration_of_nobody,
        huge_preprocessing,
        a_preprocessing_of_code,
    ],
)
def test_a_manifest_that_describes_no_guard_is_refused_whoever_signed_it(refused, made, change):
    refused(resigned(made[0], change), "does not describe a guard")


def transposed(tensors, name):
    tensors[name] = tensors[name].T.contiguous()


def too_few(tensors, name):
    tensors[name] = tensors[name][:, :-1].contiguous()


def a_row(tensors, name):
    tensors[name] = tensors[name][0].contiguous()


def nothing(tensors, name):
    tensors[name] = tensors[name][:0].contiguous()


@pytest.mark.parametrize("change", [transposed, too_few, a_row, nothing])
def test_state_of_another_size_is_refused_whoever_signed_it(refused, made, change):
    refused(
        resigned(made[0], lambda _, tensors: change(tensors, "detector/line/threshold")),
        r"'threshold' of 'line' has shape .* in place of \(C, D\) = \(3, 16\)",
    )


LIGHTER = {"corp": "corp,size=64", "weiper-msp": "weiper-msp,repeats=5", "weiper-kld": "weiper-kld,repeats=5"}
"""Settings that show the same in less time."""

SIZES = {
    "its first entry": lambda value: value[:1],
    "its first entries": lambda value: value[:-1],
    "nothing": lambda value: value[:0],
    "twice": lambda value: torch.cat([value, value]),
    "less of each": lambda value: value[..., :-1],
    "none of each": lambda value: value[..., :0],
    "transposed": lambda value: value.transpose(0, 1),
    "a further dimension": lambda value: value.unsqueeze(0),
    "one dimension": lambda value: value.flatten(),
    "one number": lambda value: value.flatten()[0],
}


@pytest.mark.parametrize(
    "name", [*(name for name in CATALOG if name != "nll"), "react,scorer=mahalanobis", "prior-normalised,scorer=msp"]
)
def test_no_tensor_of_another_size_is_read_and_fails_later(tmp_path, name):
    classifier, loader = image_problem()
    words = ol.NegLabel(words=torch.randn(40, 16))
    detector = words if name == "neglabel" else create_detector(LIGHTER.get(name, name))
    guard = ol.Guard(classifier, detector.fit(classifier, loader)).calibrate([torch.randn(60, 3, 6, 6)])
    content = guard.save(tmp_path / "good.safetensors").read_bytes()
    refused = 0
    for key, value in load(content).items():
        for change in SIZES.values() if key.startswith("detector/") and not key.endswith("/seen") else ():
            try:
                other = change(value).contiguous()
            except (IndexError, RuntimeError):
                continue  # a number has no first entry
            if other.shape == value.shape:
                continue
            path = tmp_path / "other.safetensors"
            path.write_bytes(resigned(content, lambda _, tensors, k=key, v=other: tensors.update({k: v})))
            try:
                loaded = ol.Guard.load(path, classifier)
            except (ArtifactError, MismatchError):
                refused += 1
            else:  # such as a smaller bank of neighbours
                assert len(loaded(loader[0][0])) == 60, (key, tuple(other.shape))
    assert refused > 0 or not detector.has_state


def image_problem():
    """A classifier of images, which every detector can be fitted on."""
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 3)
    network = [torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head]
    classifier, images = ol.Classifier(torch.nn.Sequential(*network)), torch.randn(60, 3, 6, 6)
    with torch.no_grad():
        head.bias -= classifier(images).logits.mean(0)
    return classifier, [(images, classifier(images).predicted)]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
@pytest.mark.parametrize("name", ["line", "vim", "mahalanobis", "knn", "dice", "nci", "react,scorer=dice"])
def test_state_of_another_kind_is_refused_whoever_signed_it(refused, tmp_path, name, dtype):
    classifier, loader = toy_problem()
    guard = ol.Guard(classifier, create_detector(name).fit(classifier, loader)).calibrate(toy_loader(seed=1))
    content = guard.save(tmp_path / "other.safetensors").read_bytes()
    for key, value in load(content).items():
        if key.startswith("detector/") and value.dtype != dtype:
            other = value.to(dtype)
            refused(resigned(content, lambda _, tensors, k=key, v=other: tensors.update({k: v})), "holds torch")


def test_names_of_classes_are_text_whatever_they_look_like(made, tmp_path):
    names = ["../../../etc/passwd", "<script>alert(1)</script>", "$(rm -rf /)"]
    path = tmp_path / "guard.safetensors"
    path.write_bytes(resigned(made[0], lambda manifest, _: manifest.update(class_names=names)))
    guard = ol.Guard.load(path, made[1])
    assert guard(torch.zeros(1, 4)).rows()[0]["class_name"] in names
    assert list(guard.class_names) == names
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_a_device_and_a_pipe_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, "/dev/zero", tmp_path / "pipe"):
        with pytest.raises(ArtifactError, match="there is no file"):
            read_artifact(path)


def test_a_model_that_a_file_names_as_code_is_not_run(made, tmp_path, monkeypatch, capsys):
    from oodline.cli import main

    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    path = tmp_path / "guard.safetensors"
    evil = {"reference": "python:evil.py:build", "weights": "/etc/passwd", "head": None}
    path.write_bytes(resigned(made[0], lambda manifest, _: manifest.update(model=evil)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["serve", "guard.safetensors"])
    assert "a file may not say which code to run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
