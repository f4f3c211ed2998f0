"""Ways to break a file: ``(draw, content, other) -> content``, where ``other`` is spliced in."""

import struct

from hypothesis import strategies as st

HUGE = [
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, values in (("H", (0xFFFF, 0x7FFF)), ("I", (0xFFFFFFFF, 0x7FFFFFFF, 0x10000000)),
                         ("Q", (2**63, 2**40, 2**64 - 1)))
    for value in values
]  # fmt: skip
TEXT = [
    b"99999999999999999999", b"-1", b"1e999", b"NaN", b"null", b'"\\ud800"', b"[" * 5000, b"\x00",
    b"../../../etc/passwd", b"%s%n", b"{}", b"1" + b"0" * 400, b"true", b'"', b"\xff\xfe",
]  # fmt: skip


def place(draw, content):
    """Somewhere, often in the header."""
    end = len(content)
    return draw(st.one_of(st.integers(0, min(96, end)), st.integers(0, end)))


def cut(draw, content, other):
    return content[: place(draw, content)]


def flip(draw, content, other):
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 6)) if content else 0):
        changed[min(place(draw, content), len(content) - 1)] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def overwrite(draw, content, other):
    at, new = place(draw, content), draw(st.sampled_from([*HUGE, *TEXT]))
    return content[:at] + new + content[at + len(new) :]


def insert(draw, content, other):
    at, new = place(draw, content), draw(st.one_of(st.binary(max_size=40), st.sampled_from(TEXT)))
    return content[:at] + new + content[at:]


def remove(draw, content, other):
    at = place(draw, content)
    return content[:at] + content[at + draw(st.integers(1, 200)) :]


def repeat(draw, content, other):
    at = place(draw, content)
    part = content[at : at + draw(st.integers(1, 600))]
    return content[:at] + part * draw(st.integers(2, 5)) + content[at:]


def splice(draw, content, other):
    return content[: place(draw, content)] + other[place(draw, other) :]


def blank(draw, content, other):
    at, size = place(draw, content), draw(st.integers(1, 600))
    return content[:at] + bytes(len(content[at : at + size])) + content[at + size :]


MUTATIONS = (flip, flip, flip, overwrite, overwrite, blank, cut, insert, remove, repeat, splice)


def broken(draw, content, other):
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from(MUTATIONS))(draw, content, other)
    return content
