"""Base of frozen dataclasses that are read from and written to JSON objects without loss."""

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JsonRecord(Mapping[str, Any]):
    """A JSON object whose known keys are attributes; also a mapping with the keys of the object.

    A field that is None is a key that the object does not have. Keys that are no fields are kept,
    so that files of other versions are written back unchanged.

    A field whose metadata has "inline" is a mapping whose entries are entries of the object itself.

    Attributes:
        extra: Entries of the object that are no fields, and optional fields that are null.
        key_order: Keys that are written first, in their order: of an object that was read all its
            keys; a new object has those of its class.

    Example:
        >>> @dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
        ... class Accuracy(JsonRecord):
        ...     top1: float
        ...     top5: float | None = None
        >>> found = Accuracy.from_json({"top1": 0.5, "date": "today"})
        >>> found.top1, found["top1"], found.top5, found["date"]
        (0.5, 0.5, None, 'today')
        >>> found.to_json()
        {'top1': 0.5, 'date': 'today'}
    """

    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"key": False})
    key_order: tuple[str, ...] = dataclasses.field(default=(), repr=False, metadata={"key": False})

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Reads a JSON object; a record or another mapping is taken as well.

        Raises:
            ValueError: The content is no object, or it has no value for a required field.
        """
        _require_object(content, cls.__name__)
        known, readers = {field.name: field for field in _keys(cls)}, _readers(cls)
        values: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in content.items():
            if name not in known or (value is None and not _is_required(known[name])):
                extra[name] = value
            else:
                values[name] = readers[name](value) if name in readers else value
        for name, field in known.items():
            if _is_required(field) and name not in values:
                raise ValueError(f"{cls.__name__} has no {name!r}")
        return cls(**values, extra=extra, key_order=tuple(content))

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, of dictionaries, lists, numbers, text and None."""
        return {name: _to_json(value) for name, value in self._entries().items()}

    def _entries(self) -> dict[str, Any]:
        """Key to value, in the order of the object."""
        entries = self._unordered_entries()
        return {name: entries[name] for name in self.key_order if name in entries} | entries

    def _unordered_entries(self) -> dict[str, Any]:
        """Key to value, without absent fields."""
        entries: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("inline"):
                entries |= value
            elif _is_key(field) and (value is not None or _is_required(field)):
                entries[field.name] = value
        return {**entries, **self.extra}

    def __getitem__(self, key: str) -> Any:
        return self._entries()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __len__(self) -> int:
        return len(self._entries())


def _keys(record: type[JsonRecord]) -> list[dataclasses.Field[Any]]:
    """The fields that are keys of the JSON object."""
    return [field for field in dataclasses.fields(record) if _is_key(field)]


def _is_key(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("key", True)) and not field.metadata.get("inline")


@functools.cache
def _readers(record: type[JsonRecord]) -> dict[str, Callable[[Any], Any]]:
    """Converter from JSON of each field whose type is a record or a dictionary of records."""
    readers: dict[str, Callable[[Any], Any]] = {}
    hints = typing.get_type_hints(record)
    for field in _keys(record):
        hint = hints[field.name]
        members = () if typing.get_origin(hint) is dict else typing.get_args(hint)
        for option in (hint, *members):  # the members of an optional type as well
            values = typing.get_args(option)[1:] if typing.get_origin(option) is dict else ()
            if _is_record(option):
                readers[field.name] = option.from_json
            elif values and _is_record(values[0]):
                readers[field.name] = functools.partial(_records_by_name, values[0])
    return readers


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, JsonRecord)


def _records_by_name(record: type[JsonRecord], content: Any) -> dict[str, JsonRecord]:
    _require_object(content, record.__name__)
    return {name: record.from_json(entry) for name, entry in content.items()}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _require_object(content: Any, name: str) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} is {content!s:.40}, not an object")


def _to_json(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _to_json(entry) for name, entry in value.items()}
    return value
