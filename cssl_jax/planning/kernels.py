"""Which part of the train step a compiled program's operations come from."""

import re
from collections import Counter

from cssl_jax.planning.compiled import KINDS, shape_bytes

# What a device executes as an operation of its own; the rest of a program is bookkeeping.
OPERATIONS = (
    *("fusion", "convolution", "dot", "custom-call", "copy", "copy-start", "reduce"),
    *("sort", "scatter", "gather", "while", "conditional", "dynamic-update-slice"),
)
# Named scopes of ``step.train_step``, ``step.grad_cache`` and ``methods.base``, in the order in
# which they are looked for in the path of an operation.
PARTS = ("views", "optimizer", "journal", "finite", "loss", "projector", "encoder")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")


def by_origin(text: str) -> dict[str, dict[str, float]]:
    """Part of the step -> {"kernels": operations, "bytes": what they read and write}.

    Counts the entry computation of an optimised program's text, each loop as one operation. Bytes
    are those of operands and results, so that what an operation reads twice counts once.
    """
    entry = text[text.rfind("\nENTRY") :]
    sizes: dict[str, int] = {}
    kernels: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for line in entry.splitlines():
        found = _INSTRUCTION.match(line)
        if not found:
            continue
        name, shape, operation, rest = found.groups()
        sizes[name] = shape_bytes(shape)
        if operation.removesuffix("-start") in KINDS:
            part = "collectives"
        elif operation in OPERATIONS:
            path = re.search(r'op_name="([^"]*)"', rest)
            part = origin(path[1] if path else "")
        else:
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        kernels[part] += 1
        moved[part] += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
    return {part: {"kernels": count, "bytes": moved[part]} for part, count in kernels.most_common()}


def origin(path: str) -> str:
    """Part of the step that an operation's path belongs to; backward passes are told apart.

    >>> origin("jit(train_step)/shard_map/transpose(jvp(encoder))/ResNet/conv1/mul")
    'encoder, backward'
    """
    for part in PARTS:
        if re.search(rf"(^|[/(]){part}([/)]|$)", path):
            if part not in ("encoder", "projector", "loss"):
                return part
            return f"{part}, {'backward' if 'transpose(' in path else 'forward'}"
    return "other" if path else "unnamed"


def loops(text: str) -> dict[str, int]:
    """Loops, those whose length is known when compiling, and conditionals, of a whole program."""
    return {
        "loops": len(re.findall(r"\) while\(|\} while\(|\] while\(", text)),
        "loops of known length": text.count('"known_trip_count"'),
        "conditionals": len(re.findall(r" conditional\(", text)),
    }
