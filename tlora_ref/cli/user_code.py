"""`check` runs the user's own implementation: here it is imported, by the name that the command line gives."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from tlora_ref.errors import ConfigError, reason


def loaded(target: str) -> object:
    """The implementation that a target names. ConfigError where there is none; the user's own code is run for it."""
    place, _, name = target.partition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise ConfigError(f"{place}: cannot be imported ({type(error).__name__}: {reason(error)})") from error
    if not name:
        return module
    if not hasattr(module, name):
        raise ConfigError(f"{place}: has no {name}; it has {', '.join(n for n in dir(module) if n[0] != '_')}")
    found = getattr(module, name)
    if not inspect.isclass(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{target}: cannot be made without arguments ({type(error).__name__}: {reason(error)}). Name an "
            "instance instead"
        ) from error


def _from_path(place: str) -> ModuleType:
    """`pkg.module`, found from where the command is run too."""
    if Path(place).is_file() or "/" in place:
        raise ConfigError(f"{place}: is no Python file. Give pkg.module:name or file.py:name")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(place)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file. Give pkg.module:name or file.py:name")
    name = f"candidate_{path.stem}"  # so that a file called json.py hides nothing
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module
