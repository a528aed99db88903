"""A file is written whole or not at all."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from oodline._util.files import GrowingFile, check_writable, write_atomically
from oodline._util.folders import write_folder
from oodline._util.tensor_file import read_tensor_file
from oodline.errors import DataError
from oodline.scoring.row_writer import check_output


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
        "from oodline._util.files import check_writable, write_atomically\n"
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


def put(path, content=b"new"):
    return write_atomically(path, lambda file: file.write(content))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_links_stay_and_what_they_lead_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_text("old")
    (tmp_path / "a").symlink_to(tmp_path / "there" / "real")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("there/later")
    for link in ("b", "a", "c"):
        check_writable(tmp_path / link)
        assert put(tmp_path / link, link.encode()) == tmp_path / link
        assert (tmp_path / link).is_symlink() and (tmp_path / link).read_text() == link
    assert (tmp_path / "there" / "real").read_text() == "a"
    assert names(tmp_path / "there") == ["later", "real"] and names(tmp_path) == ["a", "b", "c", "there"]
    (tmp_path / "d").symlink_to("d")
    (tmp_path / "e").symlink_to("nowhere/f")
    for link, sentence in (("d", "its links lead in a circle"), ("e", "there is no folder|No such file")):
        with pytest.raises(DataError, match=sentence):
            check_writable(tmp_path / link)
        with pytest.raises(DataError, match=sentence):
            put(tmp_path / link)


def test_a_link_to_a_folder_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    write_folder(tmp_path / "run", lambda new: (new / "a.txt").write_text("x"), marker="a.txt")
    write_folder(tmp_path / "run", lambda new: (new / "a.txt").write_text("y"), marker="a.txt")
    assert (tmp_path / "run").is_symlink() and (tmp_path / "real" / "a.txt").read_text() == "y"
    assert names(tmp_path) == ["real", "run"]


def test_what_is_no_file_is_refused_and_left(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.csv"))
        (tmp_path / "null.csv").symlink_to("/dev/null")
        for path in (
            *(tmp_path / f"{n}.csv" for n in ("pipe", "socket", "null")),
            Path("/dev/null"),
            Path("/dev/full"),
        ):
            before = path.stat()
            for refused in (check_writable, put, GrowingFile):
                with pytest.raises(DataError, match=rf"could not write {path}: it is a device, a pipe or a socket"):
                    refused(path)
            assert path.stat().st_ino == before.st_ino and path.stat().st_mode == before.st_mode
    assert names(tmp_path) == ["null.csv", "pipe.csv", "socket.csv"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_an_open_output_is_not_renamed_over(name, tmp_path):
    script = f"from oodline._util.files import check_writable; check_writable({name!r})"
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run([sys.executable, "-c", script], stdout=out, stderr=subprocess.PIPE, text=True)
    assert "DataError: could not write" in done.stderr


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_permissions(mode, tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(mode)
    os.link(tmp_path / "a", tmp_path / "other")
    seen = []

    def write(file):
        [temporary] = tmp_path.glob(".a.*")
        seen.append(temporary.stat().st_mode & 0o777 & ~mode)
        file.write(b"new")

    write_atomically(tmp_path / "a", write)
    assert ((tmp_path / "a").stat().st_mode & 0o777, seen) == (mode, [0])
    assert ((tmp_path / "a").read_text(), (tmp_path / "other").read_text()) == ("new", "old")


def test_a_new_file_honours_the_umask_of_other_threads_too(tmp_path):
    before = os.umask(0o027)
    try:
        threads = [threading.Thread(target=put, args=(tmp_path / str(i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


WAITS = """
import sys, time
from pathlib import Path
from oodline._util.files import write_atomically
from oodline._util.folders import write_folder

def write(place):
    (place / "half").write_text("x") if isinstance(place, Path) else place.write(b"half")
    print("begun", flush=True)
    time.sleep(60)

if sys.argv[1] == "file":
    write_atomically(sys.argv[2], write)
else:
    write_folder(sys.argv[2], write, marker="half")
"""


def begun(kind, path):
    process = subprocess.Popen([sys.executable, "-c", WAITS, kind, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_end_leaves_nothing(kind, ending, tmp_path):
    with begun(kind, tmp_path / "a") as process:
        assert len(names(tmp_path)) == 1
        process.send_signal(ending)
        assert process.wait(30) == (-ending if ending != signal.SIGINT else -signal.SIGINT)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_by_the_next_write(kind, tmp_path):
    with begun(kind, tmp_path / "a") as process, begun(kind, tmp_path / "a") as living:
        process.kill()
        process.wait()
        assert len(names(tmp_path)) == 2
        if kind == "file":
            put(tmp_path / "a")
        else:
            write_folder(tmp_path / "a", lambda new: (new / "x").write_text("x"), marker="x")
        left = names(tmp_path)
        assert left[-1] == "a" and len(left) == 2 and f"-{living.pid}-" in left[0]  # its own is in use
        living.terminate()
    assert names(tmp_path) == ["a"]


def test_signals_are_as_before_after_a_write(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert before is signal.SIG_DFL
    growing, other = GrowingFile(tmp_path / "a"), GrowingFile(tmp_path / "b")
    assert signal.getsignal(signal.SIGTERM) is not before
    growing.discard()
    assert signal.getsignal(signal.SIGTERM) is not before
    other.discard()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_programs_own_handler_is_left_alone(tmp_path):
    def own(*_):
        raise SystemExit(7)

    signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(SystemExit):
            write_atomically(tmp_path / "a", lambda _: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(1))
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert names(tmp_path) == []


def test_a_forked_worker_that_is_ended_leaves_its_parents_file(tmp_path):
    growing = GrowingFile(tmp_path / "a")
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    growing.write(lambda file: file.write(b"whole"))
    assert growing.commit().read_text() == "whole"
    growing.discard()


def test_a_reader_beside_a_writer_reads_one_of_the_two(tmp_path):
    """Header and tensors come from one file, though another is renamed into its place in between."""
    path = tmp_path / "a.safetensors"
    contents = [save({"a": torch.full((n,), float(n))}, {"n": str(n)}) for n in (3, 40_000)]
    put(path, contents[0])
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for content in contents:
                put(path, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            about, tensors = read_tensor_file(path)
            assert len(tensors["a"]) == int(about["n"]) == int(tensors["a"][0])
    finally:
        stop.set()
        writer.join()


def test_two_processes_make_the_folder_of_rows_at_once(tmp_path):
    """One of them used to say that it could not write rows, since there was a folder."""
    for number in range(30):
        wait, failures = threading.Barrier(4), []

        def check(folder=tmp_path / str(number), wait=wait, failures=failures):
            wait.wait()
            try:
                check_output(folder, divided=True)
            except DataError as error:
                failures.append(str(error))

        threads = [threading.Thread(target=check) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "nowhere" / "rows"):
        with pytest.raises(DataError, match=r"could not write .*(file|rows)"):
            check_output(path, divided=True)
