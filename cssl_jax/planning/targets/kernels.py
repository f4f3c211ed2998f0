"""Counts a compiled program's operations by the component of the train step they come from."""

import re
from collections import Counter

from cssl_jax.planning.compiled import KINDS, shape_bytes

# Instructions that a device executes as separate operations; the others are bookkeeping.
OPERATIONS = (
    *("fusion", "convolution", "dot", "custom-call", "copy", "copy-start", "reduce"),
    *("sort", "scatter", "gather", "while", "conditional", "dynamic-update-slice"),
)
# Named scopes of ``step.train_step``, ``step.grad_cache`` and ``methods.base``, in order of
# precedence: the first one that occurs in the path of an operation is its origin.
PARTS = ("views", "optimizer", "journal", "finite", "loss", "targets", "projector", "encoder")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")


def by_origin(text: str) -> dict[str, dict[str, float]]:
    """Component of the step -> {"kernels": number of operations, "bytes": read and written}.

    Args:
        text: HLO text of an optimised program. Only its entry computation is counted, each loop as
            one operation.

    Returns:
        Counts per component, most operations first. Bytes are the sizes of operands and results; an
        array that an operation reads twice counts once.
    """
    entry = text[text.rfind("\nENTRY") :]
    sizes: dict[str, int] = {}
    kernels: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for line in entry.splitlines():
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        name, shape, operation, rest = instruction.groups()
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
    """Component of the step that an operation's path belongs to, with the direction of its pass.

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
    """Number of loops, of loops with a known trip count, and of conditionals in a program."""
    return {
        "loops": len(re.findall(r"\) while\(|\} while\(|\] while\(", text)),
        "loops of known length": text.count('"known_trip_count"'),
        "conditionals": len(re.findall(r" conditional\(", text)),
    }
