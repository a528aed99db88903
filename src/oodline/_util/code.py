"""Import Python code that a user names: a file or a module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from oodline.errors import OodlineError


def import_code(home: str, error_type: type[OodlineError]) -> ModuleType:
    """Run a file that ends in .py, or import a module.

    Only what a user wrote, on the command line or in a program, may come here: never what a file says.

    Raises
    ------
    OodlineError
        Of the type given: there is no such file, or it cannot be imported.

    Examples
    --------
    >>> from oodline.errors import ModelError
    >>> import_code("json", ModelError).__name__
    'json'
    """
    path = Path(home)
    try:
        if path.suffix != ".py":
            return importlib.import_module(home)
        spec = importlib.util.spec_from_file_location(f"oodline_user_{path.stem}", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise error_type(f"there is no Python file {home}.")
        module = importlib.util.module_from_spec(spec)
        # dataclasses and the like look their module up while it is being run
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[spec.name]
            raise
    except OodlineError:
        raise
    except Exception as error:
        raise error_type(f"{home} could not be imported: {type(error).__name__}: {error}") from error
    return module
