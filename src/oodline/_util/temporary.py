"""Temporary files and folders that are removed later even if the process is stopped or killed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_claims: dict[int, Callable[[], object]] = {}
_owner = os.getpid()


def temporary_name(path: Path) -> Path:
    """A new name beside `path`, hidden, that says which process of which machine uses it.

    >>> temporary_name(Path("out/a.csv")).name[:7]
    '.a.csv.'
    """
    return path.with_name(f".{path.name[:100]}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_stale(path: Path) -> None:
    """Remove what processes of this machine that have ended left of writing `path`."""
    pattern = re.compile(re.escape(f".{path.name[:100]}.{_machine()}-") + r"(\d+)-[0-9a-f]{8}\.tmp")
    try:
        found = [(match, left) for left in path.parent.iterdir() if (match := pattern.fullmatch(left.name))]
    except OSError:
        return  # whoever writes there says why it cannot be
    for match, left in found:
        if not _lives(int(match[1])):
            remove(left)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def claim(clear: Callable[[], object]) -> int:
    """Have `clear` called where a signal ends this process before `release`; the number to release it by.

    Signals that a program handles itself are left to it: what it raises passes through `finally`, as Ctrl-C does.
    """
    global _owner
    if _owner != os.getpid():  # a fork: the files are the parent's
        _claims.clear()
        _owner = os.getpid()
    number = max(_claims, default=0) + 1
    _claims[number] = clear
    if threading.current_thread() is threading.main_thread():
        for ending in _ENDINGS:
            if signal.getsignal(ending) is signal.SIG_DFL:
                signal.signal(ending, _end)
    return number


def release(number: int) -> None:
    """What was claimed is done; nothing happens a second time."""
    _claims.pop(number, None)
    if not _claims and threading.current_thread() is threading.main_thread():
        for ending in _ENDINGS:
            if signal.getsignal(ending) is _end:
                signal.signal(ending, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    if _owner == os.getpid():
        for clear in list(_claims.values()):
            clear()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:40] or "here"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
