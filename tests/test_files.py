"""A file is written whole or not at all."""

import resource
import subprocess
import sys

import pytest

from oodline.errors import DataError
from oodline.files import check_writable, write_atomically


def test_an_error_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_new_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").write_text("")
    written = write_atomically(tmp_path / "a", lambda file: file.write(b""))
    assert written.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="No such file or directory"):
        write_atomically(tmp_path / "nowhere" / "a", lambda file: file.write(b""))


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    # a limit on the size of files fails a write as a full disk does, with an error from the operating system
    script = (
        "from oodline.files import check_writable, write_atomically\n"
        "from oodline.errors import DataError\n"
        "try:\n"
        f"    write_atomically({str(tmp_path / 'a')!r}, lambda file: file.write(b'x' * 100_000))\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, preexec_fn=limit, check=True)
    assert "could not write" in done.stdout
    assert "Nothing was left behind" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_known_before_the_work(tmp_path):
    check_writable(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        check_writable(tmp_path / "nowhere" / "a")
