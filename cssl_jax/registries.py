"""Looks an extension up by its name in a registry, or in a Python file of the user's own.

A registry is a dict literal whose values say where an entry is defined, as "module:NAME": the
module is imported when the entry is first used, so that listing names costs nothing. A name of the
form "my_file.py:NAME" is an entry in a file. A source of images adds what to open, as
"my_file.py:NAME:PLACE".
"""

import contextlib
import contextvars
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from cssl_jax.errors import UserError, short

T = TypeVar("T")
_TRUSTED: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar(
    "cssl_jax_trusted_code", default=frozenset()
)
_ALL = "*"  # in place of a path: every file
_WITH_PLACE = re.compile(r"(.+?\.py:[^\W\d]\w*):(.+)", re.DOTALL)
TRUST_VARIABLE = "CSSL_JAX_TRUSTED_CODE"  # paths for child processes, separated as PATH's are


def look_up(kind: str, name: str, registry: Mapping[str, str | T], entry_type: type[T]) -> T:
    """Returns the entry that a name stands for.

    Args:
        kind: What the registry holds, for messages, such as "encoder".
        name: Name in the registry, or "file.py:NAME".
        registry: Names to "module:NAME", or to entries themselves.
        entry_type: Class of the entries.

    Raises:
        UserError: There is no such name, file or object, or the object is no entry.
    """
    if is_file_name(name):
        return _from_file(kind, name, entry_type)
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"no {kind} is called {short(name)}; {hint}there are {', '.join(registry)}, or give "
            "your own as file.py:NAME"
        )
    found = registry[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, entry_type), found
    return found


def is_file_name(name: str) -> bool:
    """True for "file.py:NAME"."""
    return ".py:" in name


def split_place(text: str) -> tuple[str, str]:
    """("file.py:NAME", "PLACE") of "file.py:NAME:PLACE"; other texts with an empty place."""
    found = _WITH_PLACE.fullmatch(text)
    return (found[1], found[2]) if found else (text, "")


def file_of(name: str) -> pathlib.Path:
    """The file of "file.py:NAME"."""
    return pathlib.Path(name.rpartition(":")[0]).expanduser()


def absolute_name(name: str) -> str:
    """The name with an absolute path, if it is "file.py:NAME"; else the name itself."""
    if not is_file_name(name):
        return name
    return f"{file_of(name).absolute()}:{name.rpartition(':')[2]}"


def code_digest(name: str) -> str:
    """SHA-256 of the file of "file.py:NAME", in hexadecimal digits."""
    return hashlib.sha256(file_of(name).read_bytes()).hexdigest()


@contextlib.contextmanager
def trusting_code(*names: str) -> Iterator[None]:
    """Within it, the files of these names are executed when a config names them.

    A run folder or a JSON config may come from somebody else and name any file: without this, code
    in a file is refused.

    Args:
        *names: "file.py:NAME" or "file.py:NAME:PLACE", as in a config; none trusts every file.
    """
    paths = {str(file_of(split_place(name)[0]).resolve()) for name in names} or {_ALL}
    token = _TRUSTED.set(_TRUSTED.get() | paths)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def trusted_code() -> frozenset[str]:
    """Paths of the files that are trusted, those from the environment included; "*" is all."""
    inherited = os.environ.get(TRUST_VARIABLE, "").split(os.pathsep)
    return _TRUSTED.get() | {path for path in inherited if path}


def _from_file(kind: str, name: str, entry_type: type[T]) -> T:
    path, attribute = file_of(name), name.rpartition(":")[2]
    if not path.is_file():
        raise UserError(f"{kind} {name}: file {path} does not exist")
    if not trusted_code() & {_ALL, str(path.resolve())}:
        raise UserError(
            f"{kind} {name} is Python code of a file that nobody named on the command line; read "
            "it, and if you trust it, give --trust-code (from Python: cssl_jax.trusting_code())"
        )
    try:
        module = _executed(path.resolve())
    except Exception as error:  # whatever a user's code may raise
        raise UserError(f"{kind} {name}: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, entry_type):
        raise UserError(
            f"{kind} {name}: {attribute} is {'missing' if found is None else type(found).__name__}"
            f"; define {attribute} = {entry_type.__name__}(...) in {path.name}, see "
            "docs/extending.md"
        )
    return found


def _executed(path: pathlib.Path) -> Any:
    """A file as a module; the same content is executed once, so that equal entries are identical.

    A method is hashable and shares its compiled programs with equal ones: classes that were defined
    again at every lookup would never be equal.
    """
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    name = f"cssl_jax_extension_{digest}"
    if name not in sys.modules:
        execute(importlib.util.spec_from_file_location(name, path), register=True)
    return sys.modules[name]


def execute(
    spec: importlib.machinery.ModuleSpec | None, *, register: bool = False
) -> types.ModuleType:
    """Executes a file as a module.

    Args:
        spec: Module that is not imported by its name, from ``spec_from_file_location``.
        register: Keep it in ``sys.modules`` from before its execution on; dataclasses look their
            module up there while they are defined. A module that fails is removed.
    """
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if register:
        sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if register:
            del sys.modules[spec.name]
        raise
    return module
