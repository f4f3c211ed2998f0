"""Uncompressed TIFF files of any number of bands and any kind of values, written by hand."""

import struct

import numpy as np

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_SHORT, _LONG = 3, 4


def encode(pixels, *, photometric=1, kind=UNSIGNED, extra=()):
    """[h, w] or [h, w, bands] in one strip, little-endian.

    Args:
        pixels: Of the type that the file has.
        photometric: 0 white is zero, 1 black is zero, 2 RGB.
        kind: Of the values.
        extra: What the bands beyond the colours are; 0 is unspecified.
    """
    height, width, bands = (*pixels.shape, 1)[:3]
    data = np.ascontiguousarray(pixels).tobytes()
    tags = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [pixels.dtype.itemsize * 8] * bands),
        259: (_SHORT, [1]),
        262: (_SHORT, [photometric]),
        273: (_LONG, [0]),
        277: (_SHORT, [bands]),
        278: (_LONG, [height]),
        279: (_LONG, [len(data)]),
        339: (_SHORT, [kind] * bands),
    }
    if extra:
        tags[338] = (_SHORT, list(extra))
    start = 8 + 2 + 12 * len(tags) + 4
    lists = b"".join(_packed(*tag) for tag in map(tags.get, sorted(tags)) if _is_long(*tag))
    tags[273] = (_LONG, [start + len(lists)])
    entries, at = b"", start
    for number in sorted(tags):
        packed = _packed(*tags[number])
        value = packed.ljust(4, b"\0")
        if _is_long(*tags[number]):
            value, at = struct.pack("<I", at), at + len(packed)
        kind_of_tag, values = tags[number]
        entries += struct.pack("<HHI", number, kind_of_tag, len(values)) + value
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + struct.pack("<I", 0) + lists + data


def _packed(kind, values):
    return struct.pack(f"<{len(values)}{'H' if kind == _SHORT else 'I'}", *values)


def _is_long(kind, values):
    return len(_packed(kind, values)) > 4
