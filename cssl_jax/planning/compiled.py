"""Memory, FLOPs and collectives of a compiled step, from XLA's analyses and the program text."""

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
    """Bytes on one device: arguments, results not aliased with arguments, and temporaries."""
    analysis = compiled.memory_analysis()
    return {
        "arguments": analysis.argument_size_in_bytes,
        # A donated argument and its result are the same memory, which "arguments" counts.
        "results": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
    }


def cost(compiled: Any) -> dict[str, float]:
    """Operations ("flops") and bytes of one device, as XLA counts them; each loop body counts once.

    {} where XLA counts nothing, as for a GPU that is not there.
    """
    analysis = compiled.cost_analysis() or {}
    if isinstance(analysis, list):  # on some backends, with one entry
        (analysis,) = analysis
    names = {"flops": "flops", "bytes": "bytes accessed"}
    return {name: float(analysis.get(key, 0.0)) for name, key in names.items()} if analysis else {}


def collective_bytes(text: str, devices: int) -> Counter[str]:
    """Total bytes of each kind of collective in a program's text.

    Sizes follow ``jaxpr.collective_bytes``: the result of an all-gather, the operand of a
    reduction, and collectives in loops as often as the loops run.

    Args:
        text: HLO text of a compiled program.
        devices: Number of devices that the program runs on.

    Raises:
        ValueError: A collective is in a loop whose trip count the text does not contain.
    """
    own: dict[str, Counter[str]] = {}
    calls: dict[str, list[tuple[str, int | None]]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[1]
            own[name], calls[name] = Counter(), []
            entry = name if line.startswith("ENTRY") else entry
        elif (match := _INSTRUCTION.match(line)) and name:
            shape, operation = match[1], match[2].removesuffix("-start")
            if operation in KINDS:
                own[name][operation] += _size(shape, operation, match[2]) * (
                    devices if operation == "reduce-scatter" else 1
                )
                continue  # the called computation is the scalar sum: no collectives
            trips: int | None = 1
            if operation == "while":
                count = _TRIPS.search(line)
                trips = int(count[1]) if count else None
            branches = _BRANCHES.search(line)
            called = _CALLED.findall(line) + re.findall(
                r"[\w.\-]+", branches[1] if branches else ""
            )
            calls[name] += [(callee, trips) for callee in called]

    def total(computation: str) -> Counter[str]:
        sizes = Counter(own.get(computation, Counter()))
        for callee, trips in calls.get(computation, ()):
            inner = total(callee)
            if inner and trips is None:
                raise ValueError(f"collectives in a loop of unknown length: {dict(inner)}")
            sizes.update({kind: size * (trips or 0) for kind, size in inner.items()})
        return sizes

    return total(entry)


def collective_counts(text: str) -> Counter[str]:
    """Number of collectives of each kind in a program's text; those in loops count once."""
    matches = (_INSTRUCTION.match(line) for line in text.splitlines())
    names = (match[2].removesuffix("-start") for match in matches if match)
    return Counter(name for name in names if name in KINDS)


def shape_bytes(shape: str) -> int:
    """Bytes of a shape in a program's text, summed over the elements of a tuple."""
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
    """Bytes of a collective's result; an asynchronous start returns (operand, result)."""
    sizes = _array_bytes(shape)
    asynchronous = name.endswith("-start") and operation != "all-reduce"
    return max(sizes) if asynchronous else sum(sizes)
