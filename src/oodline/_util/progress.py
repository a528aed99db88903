"""A progress bar with rate and time left, on standard error, shown only on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def track(batches: Iterable[T], task: str, loader: Iterable[Any], *, shown: bool, unit: str = "batches") -> Iterator[T]:
    """Yield `batches`, one for each batch of `loader`, and show how far it is.

    Parameters
    ----------
    batches : iterable
        What to iterate.
    task : str
        A word in front of the bar.
    loader : iterable
        Whose length, where it has one, is the number of batches.
    shown : bool
        If false, or where standard error is not a terminal, `batches` pass through untouched.
    unit : str
        What to call them.
    """
    if not shown:
        yield from batches
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:  # a bar is no use in a log
        yield from batches
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(unit + ", {task.fields[rate]}/s, left"), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        total = len(loader) if isinstance(loader, Sized) else None
        bar_id = bar.add_task(task, total=total, rate="?")
        for batch in batches:
            yield batch
            bar.advance(bar_id)
            speed = bar.tasks[0].speed
            bar.update(bar_id, rate="?" if speed is None else f"{speed:.1f}")


@contextmanager
def working(task: str, *, shown: bool) -> Iterator[None]:
    """Show that a step of unknown length is under way, on standard error, where that is a terminal.

    Examples
    --------
    >>> with working("tracing", shown=False):
    ...     pass
    """
    if not shown:
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(task):
        yield
