"""What a compiled step says of itself: memory, FLOPs, and the collectives in its text."""

import re
from collections import Counter
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BITS = {"pred": 8, "bf16": 16}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on one device: arguments, results that share none of their memory, temporaries."""
    found = compiled.memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes,
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
    }


def flops(compiled: Any) -> float:
    """Operations of one device, by XLA's count: bodies of loops once, whatever their length."""
    return _cost(compiled, "flops")


def bytes_accessed(compiled: Any) -> float:
    """Bytes that one device's operations read and write, by XLA's count; loops once."""
    return _cost(compiled, "bytes accessed")


def _cost(compiled: Any, name: str) -> float:
    found = compiled.cost_analysis()
    return float((found[0] if isinstance(found, list) else found).get(name, 0.0))


def collective_bytes(text: str, devices: int) -> Counter[str]:
    """Bytes of all collectives by kind in a program's text; as ``jaxpr.collective_bytes``.

    Raises:
        ValueError: A collective is in a loop whose length the text does not tell.
    """
    own: dict[str, Counter[str]] = {}
    calls: dict[str, list[tuple[str, int | None]]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[1]
            own[name], calls[name] = Counter(), []
            entry = name if line.startswith("ENTRY") else entry
        elif (found := _INSTRUCTION.match(line)) and name:
            shape, operation = found[1], found[2].removesuffix("-start")
            if operation in KINDS:
                own[name][operation] += _size(shape, operation, found[2]) * (
                    devices if operation == "reduce-scatter" else 1
                )
                continue  # what it applies is a sum of two numbers
            trips: int | None = 1
            if operation == "while":
                known = _TRIPS.search(line)
                trips = int(known[1]) if known else None
            branches = _BRANCHES.search(line)
            called = _CALLED.findall(line) + re.findall(
                r"[\w.\-]+", branches[1] if branches else ""
            )
            calls[name] += [(callee, trips) for callee in called]

    def total(computation: str) -> Counter[str]:
        found = Counter(own.get(computation, Counter()))
        for callee, trips in calls.get(computation, ()):
            within = total(callee)
            if within and trips is None:
                raise ValueError(f"collectives in a loop of unknown length: {dict(within)}")
            found.update({kind: size * (trips or 0) for kind, size in within.items()})
        return found

    return total(entry)


def collective_counts(text: str) -> Counter[str]:
    """Number of collectives by kind in a program's text; those of loops once."""
    found = (_INSTRUCTION.match(line) for line in text.splitlines())
    names = (match[2].removesuffix("-start") for match in found if match)
    return Counter(name for name in names if name in KINDS)


def shape_bytes(shape: str) -> int:
    """Bytes of a shape in a program's text, all elements of a tuple together."""
    return sum(_array_bytes(shape))


def _array_bytes(shape: str) -> list[int]:
    sizes = []
    for kind, dimensions in _SHAPE.findall(shape):
        bits = _BITS.get(kind) or int(re.sub(r"\D*(\d+).*", r"\1", kind))
        count = 1
        for side in filter(None, dimensions.split(",")):
            count *= int(side)
        sizes.append(count * bits // 8)
    return sizes


def _size(shape: str, operation: str, name: str) -> int:
    """Of the result; one that is started apart gives (operand, result)."""
    sizes = _array_bytes(shape)
    asynchronous = name.endswith("-start") and operation != "all-reduce"
    return max(sizes) if asynchronous else sum(sizes)
