"""Interprets the opcodes of a pickle without calling or importing anything that it names.

A pickle is a program for a stack machine. Here its containers, numbers and texts are built, and
the few calls that describe a tensor become ``Tensor`` records. A class of a known library becomes
an ``Inert`` object that ignores what is done to it. Any other name is refused.
"""

import dataclasses
import itertools
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from cssl_jax.errors import UserError, cut

_MAX_OPCODES = 5_000_000  # a ResNet-152 with its optimizer state takes 100,000
_MAX_KEY = 2**31
# Libraries whose classes occur in training checkpoints beside the weights. Python's own modules
# are not among them, except for plain containers.
_LIBRARIES = frozenset(
    (
        *("__main__", "argparse", "collections", "datetime", "enum", "pathlib", "typing"),
        *("addict", "classy_vision", "detectron2", "easydict", "fvcore", "hydra", "lightly"),
        *("lightning", "lightning_fabric", "ml_collections", "mmcv", "mmengine", "models"),
        *("numpy", "omegaconf", "pytorch_lightning", "solo", "timm", "torch", "torchvision"),
        *("vissl", "yacs"),
    )
)
_BUILTINS = frozenset(
    (
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int"),
        *("list", "object", "range", "set", "slice", "str", "tuple"),
    )
)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
    "UntypedStorage": np.dtype("u1"),
}


class PickleError(ValueError):
    """The pickle is damaged, or has a structure that no file of weights has."""


@dataclasses.dataclass(frozen=True)
class Name:
    """Name of a class or function, which is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """Object of a class that is not imported; it ignores everything that is done to it."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Storage:
    """Values of one or more tensors, which lie elsewhere in the file.

    Attributes:
        key: Name of the values in the file.
        dtype: Type of a value.
        count: Number of values.
        start: Index of the first value in the values of ``key``.
    """

    key: str
    dtype: np.dtype[Any]
    count: int
    start: int = 0


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Description of a tensor as the file gives it; nothing in it has been checked.

    Attributes:
        storage: Values.
        offset: Index of the first value in the storage.
        size: Lengths of the axes.
        stride: Steps of the axes, in values.
    """

    storage: Storage
    offset: Any
    size: Any
    stride: Any


def load(file: Any, storages: dict[str, Storage] | None = None) -> Any:
    """Interprets one pickle from the position of a file, up to its end opcode.

    Args:
        file: Binary file that is open for reading, or an object with its methods.
        storages: Dict that receives one storage per key that the pickle refers to.

    Returns:
        The object: dicts, lists, tuples, numbers, texts, ``Tensor``, ``Inert`` and ``Name``.

    Raises:
        PickleError: The pickle is damaged.
        UserError: The pickle names a function or class that no file of weights needs.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        opcodes: Iterator[tuple[Any, Any, int | None]] = pickletools.genops(file)
        for opcode, argument, _ in itertools.islice(opcodes, _MAX_OPCODES):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except UserError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError(str(error) or type(error).__name__) from error
    raise PickleError("it has too many opcodes, or no end")


_MARK = object()


class _Machine:
    """Stack and memo of one pickle."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self._storages = storages
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Removes and returns the object on top of the stack."""
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        """Executes one opcode."""
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise PickleError(f"opcode {name} has no place in a file of weights")

    def _marked(self) -> list[Any]:
        """Removes and returns the objects above the last mark, and the mark."""
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                items = self._stack[i + 1 :]
                del self._stack[i:]
                return items
        raise PickleError("there is no mark")

    def put(self, index: int | None) -> None:
        """Stores the top of the stack under an index; None: the next one."""
        if self._stack[-1] is _MARK:
            raise PickleError("a mark cannot be stored")
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def get(self, index: int) -> None:
        """Pushes a stored object."""
        self._stack.append(self._memo[index])

    def discard(self, _: Any) -> None:
        """Removes the top of the stack."""
        self._stack.pop()

    def discard_marked(self, _: Any) -> None:
        """Removes the objects above the last mark."""
        self._marked()

    def duplicate(self, _: Any) -> None:
        """Pushes the top of the stack again."""
        self._stack.append(self._stack[-1])

    def mark(self, _: Any) -> None:
        """Pushes a mark."""
        self._stack.append(_MARK)

    def make_tuple(self, count: int | None) -> None:
        """Replaces ``count`` objects, or those above the mark, by a tuple of them."""
        if count is None:
            self._stack.append(tuple(self._marked()))
            return
        if len(self._stack) < count:
            raise PickleError("the stack is empty")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(items)

    def make_list(self, _: Any) -> None:
        """Replaces the objects above the mark by a list of them."""
        self._stack.append(self._marked())

    def make_dict(self, _: Any) -> None:
        """Replaces the keys and values above the mark by a dict."""
        content: dict[Any, Any] = {}
        _set_items(content, self._marked())
        self._stack.append(content)

    def make_inert(self, _: Any) -> None:
        """Replaces the objects above the mark by an inert object."""
        self._marked()
        self._stack.append(Inert())

    def append(self, _: Any) -> None:
        """Appends the top of the stack to the list below it."""
        item = self._stack.pop()
        _append(self._stack[-1], [item])

    def append_all(self, _: Any) -> None:
        """Appends the objects above the mark to the list below it."""
        items = self._marked()
        _append(self._stack[-1], items)

    def set_item(self, _: Any) -> None:
        """Sets one key of the dict below key and value."""
        value = self._stack.pop()
        key = self._stack.pop()
        _set_items(self._stack[-1], [key, value])

    def set_items(self, _: Any) -> None:
        """Sets the keys above the mark in the dict below it."""
        items = self._marked()
        _set_items(self._stack[-1], items)

    def find(self, argument: str | None) -> None:
        """Pushes a name, after a check that it may occur."""
        if argument is None:  # STACK_GLOBAL
            name, module = self._stack.pop(), self._stack.pop()
        else:
            module, _, name = argument.partition(" ")
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("a name is no text")
        self._stack.append(_checked(Name(module, name)))

    def instantiate(self, argument: str) -> None:
        """Replaces the arguments above the mark by an object of the named class (INST)."""
        self._marked()
        self.find(argument)
        self._stack[-1] = Inert()

    def call(self, _: Any) -> None:
        """Replaces a name and its arguments by what the call describes."""
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(arguments, tuple):
            raise PickleError("a call has no tuple of arguments")
        build = _CALLS.get(str(function)) if isinstance(function, Name) else None
        self._stack.append(build(*arguments) if build else Inert())

    def call_with_names(self, _: Any) -> None:
        """Replaces class, arguments and named arguments by an inert object."""
        del self._stack[-2:]
        self._stack[-1] = Inert()

    def build(self, _: Any) -> None:
        """Removes the state of the object below it; a dict's attributes are no weights."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict | Inert | Tensor | tuple):
            raise PickleError("a state is given to a value that has none")

    def refer(self, _: Any) -> None:
        """Replaces the description of a storage by a ``Storage``."""
        storage = _storage(self._stack.pop())
        self._storages[storage.key] = storage
        self._stack.append(storage)


def _checked(name: Name) -> Name:
    root = name.module.partition(".")[0]
    is_container = root in ("builtins", "__builtin__") and name.name in _BUILTINS
    is_plain = str(name) in ("_codecs.encode", "copyreg._reconstructor", "copy_reg._reconstructor")
    # A nested name such as "torch" "os.system" would reach another module.
    if not (is_container or is_plain or (root in _LIBRARIES and name.name.isidentifier())):
        raise UserError(
            f"the file names {cut(str(name))}, which no file of weights needs; it was not called. "
            "If you trust the file, save its state_dict alone with torch"
        )
    return name


def _append(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Inert):
        raise PickleError("items are appended to a value that is no list")


def _set_items(target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise PickleError("a key has no value")
    if isinstance(target, Inert):
        return
    if not isinstance(target, dict):
        raise PickleError("items are set in a value that is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Other keys could be built to collide, which makes a dict slow.
        is_small = isinstance(key, int) and abs(key) < _MAX_KEY
        if not (is_small or key is None or isinstance(key, str | bytes | Name | Inert)):
            raise PickleError(f"a key is of type {type(key).__name__}")
        target[key] = value


def _storage(reference: Any) -> Storage:
    """Storage of ("storage", class, key, location, count) and, in old files, a view of it."""
    if not (isinstance(reference, tuple) and len(reference) in (5, 6)):
        raise PickleError("a reference is no storage")
    kind, cls, key, _, count = reference[:5]
    if not isinstance(cls, Name):
        raise PickleError("a storage has no type")
    dtype = _STORAGES.get(cls.name)
    if dtype is None:
        raise UserError(f"the file has values of the type {cut(str(cls))}, which is not supported")
    view = reference[5] if len(reference) == 6 else None
    if kind != "storage" or not (isinstance(key, str) and is_size(count)):
        raise PickleError("a reference is no storage")
    if view is None:
        return Storage(key, dtype, count)
    if not (isinstance(view, tuple) and len(view) == 3 and is_size(view[1]) and is_size(view[2])):
        raise PickleError("a view of a storage is damaged")
    return Storage(key, dtype, view[2], view[1])


def is_size(value: Any) -> bool:
    """True for an integer that can be a number of values in a file."""
    return type(value) is int and 0 <= value < 2**47


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise PickleError("a tensor has no storage")
    return Tensor(storage, offset, size, stride)


def _typed_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Any:
    """Tensor of a type that has no storage class, such as float8: not a type of weights."""
    return Inert()


def _subclassed(function: Any, cls: Any, arguments: Any, *_: Any) -> Any:
    """Tensor of a subclass, such as a Parameter with attributes."""
    is_plain = str(function).startswith("torch._utils._rebuild_tensor")
    return _tensor(*arguments) if isinstance(function, Name) and is_plain else Inert()


def _first(value: Any, *_: Any) -> Any:
    return value


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


# Calls that describe weights; a call of any other name gives an inert object.
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _subclassed,
    "torch.Size": _first,
    "collections.OrderedDict": _empty_dict,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": Inert,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(None),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "POP": _Machine.discard,
    "POP_MARK": _Machine.discard_marked,
    "DUP": _Machine.duplicate,
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.make_tuple(None),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "LIST": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "FROZENSET": _Machine.make_inert,
    "OBJ": _Machine.make_inert,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_all,
    "ADDITEMS": _Machine.append_all,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": lambda machine, _: machine.find(None),
    "INST": _Machine.instantiate,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.refer,
}
