"""Open the engine that `--engine` names."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from oodline._util.spec import parse_reference
from oodline.cli.printing import say
from oodline.errors import RankError, SettingError, unknown_name

if TYPE_CHECKING:
    from oodline.passes.engine import Engine

NAMES = ("local", "torchrun", "ray")


@contextmanager
def open_engine(reference: str | None, folder: Path) -> Iterator[Engine]:
    """Open the engine that is named, or torchrun's where torchrun started this process; ranks but the first are silent.

    Parameters
    ----------
    reference : str, optional
        local, torchrun, or ray with its settings: `ray,workers=8,block=100000`.
    folder : Path
        Where an engine that can be interrupted keeps what it has so far.

    Raises
    ------
    UnknownNameError
        There is no engine of that name.
    SettingError
        A setting that it does not have, or torchrun is named and did not start this process.
    """
    from oodline.passes.local import Local
    from oodline.passes.torchrun import Torchrun, launched, process_group

    parsed = parse_reference(reference if reference is not None else "torchrun" if launched() else "local")
    if parsed.name not in NAMES:
        raise unknown_name("engine", parsed.name, NAMES)
    known = ("workers", "block") if parsed.name == "ray" else ()
    for setting, value in parsed.options.items():
        if setting not in known or not isinstance(value, int):
            has = f"{' and '.join(known)}, which are whole numbers" if known else "no setting"
            raise SettingError(f"--engine {parsed.name} does not take {setting}={value}; it has {has}.")
    if parsed.name == "ray":
        from oodline.passes.ray import Ray

        yield Ray(folder=folder, **parsed.options)  # type: ignore[arg-type]
        return
    if parsed.name == "local":
        yield Local()
        return
    if not launched():
        raise SettingError(
            "--engine torchrun is for processes that torchrun starts: torchrun --nproc-per-node N -m oodline fit ..."
        )
    with process_group(), ExitStack() as quiet:
        engine = Torchrun()
        if not engine.is_main:
            quiet.enter_context(redirect_stdout(io.StringIO()))
            quiet.enter_context(redirect_stderr(io.StringIO()))
            quiet.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        try:
            yield engine
        except RankError as error:
            # the first rank speaks for all, before torchrun sees that one has ended and ends the others
            if engine.is_main:
                say(f"error: {error}", file=sys.stderr, flush=True)
            engine.wait()
            sys.exit(1)
