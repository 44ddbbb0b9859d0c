"""Resolves names in configurations: a built-in name, or "module:name" for a user's object."""

import difflib
import importlib
import logging
import re
from collections.abc import Mapping
from typing import TypeVar, cast

from unclip.config import ConfigError

T = TypeVar("T")

log = logging.getLogger(__name__)

_IMPORT = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<attribute>\w+)")


def is_import(name: str) -> bool:
    """Whether a name has the form "module:name"; URLs and Windows paths do not."""
    return _IMPORT.fullmatch(name) is not None


def resolve(name: str, builtin: Mapping[str, T], *, what: str) -> T:
    """The built-in object of that name, or the object that "module:name" imports.

    what: the kind of object, for error messages, such as "filter rule". The caller must check that
    an imported object is of that kind. Raises `ConfigError` if the name is unknown, or if the
    module or its attribute cannot be imported.
    """
    if name in builtin:
        return builtin[name]
    match = _IMPORT.fullmatch(name)
    if match is None:
        raise ConfigError(_unknown(name, tuple(builtin), what))
    return cast(T, _import(match["module"], match["attribute"], what))


def _import(module_name: str, attribute: str, what: str) -> object:
    importlib.invalidate_caches()  # the file may be newer than Python's cached folder listing
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(_not_imported(module_name, attribute, what, error)) from error
    if not hasattr(module, attribute):
        public = tuple(name for name in vars(module) if not name.startswith("_"))
        raise ConfigError(
            f"{what} {module_name}:{attribute}: {getattr(module, '__file__', module_name)} has no "
            f"{attribute!r}{did_you_mean(attribute, public)}"
        )
    log.debug("imported %s %s:%s", what, module_name, attribute)
    found: object = getattr(module, attribute)
    return found


def did_you_mean(name: str, known: tuple[str, ...]) -> str:
    """A suggestion of the closest known name, such as "; did you mean ddim?", or ""."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _unknown(name: str, known: tuple[str, ...], what: str) -> str:
    return (
        f"unknown {what} {name!r}{did_you_mean(name, known) or ';'} "
        f"built in: {', '.join(known) or 'none'}; "
        'write "module:name" for one of your own'
    )


def _not_imported(module_name: str, attribute: str, what: str, error: Exception) -> str:
    start = f"{what} {module_name}:{attribute}"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module_name}.".startswith(f"{missing}."):
        return (
            f"{start}: there is no module {missing!r} on the Python path; put its file beside the "
            "configuration, or add its folder to PYTHONPATH"
        )
    return f"{start}: importing {module_name} raised {type(error).__name__}: {error}"
