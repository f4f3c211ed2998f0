"""Decodes a block that Snappy compressed; nothing in it is trusted."""

# A copy of 64 bytes takes 3 bytes, so that no block unpacks to more than about 22 times its size.
_MAX_RATIO = 22


def decompress(content: bytes) -> bytes:
    """Unpacks one block of Snappy's raw format.

    Source: https://github.com/google/snappy, ``format_description.txt``.

    Raises:
        ValueError: The block is damaged.
    """
    length, position = _varint(content)
    if length > _MAX_RATIO * len(content):
        raise ValueError("a compressed block states more bytes than it can hold")
    output = bytearray()
    while position < len(content):
        tag = content[position]
        position += 1
        if tag & 3 == 0:
            size, position = _literal_size(content, tag >> 2, position)
            output += content[position : position + size]
            position += size
        else:
            extra = (1, 2, 4)[(tag & 3) - 1]
            size = (tag >> 2 & 7) + 4 if extra == 1 else (tag >> 2) + 1
            offset = int.from_bytes(content[position : position + extra], "little")
            offset += (tag >> 5) << 8 if extra == 1 else 0
            position += extra
            _copy(output, offset, size)
        if position > len(content) or len(output) > length:
            raise ValueError("a compressed block is damaged")
    if len(output) != length:
        raise ValueError("a compressed block is truncated")
    return bytes(output)


def _varint(content: bytes) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(content[:5]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, i + 1
    raise ValueError("a compressed block has no length")


def _literal_size(content: bytes, code: int, position: int) -> tuple[int, int]:
    """(number of literal bytes, position of the first one)."""
    extra = max(code - 59, 0)  # codes 60 to 63: the size follows in 1 to 4 bytes
    number = int.from_bytes(content[position : position + extra], "little") if extra else code
    return number + 1, position + extra


def _copy(output: bytearray, offset: int, size: int) -> None:
    """Appends bytes from ``offset`` back; they repeat where the copy overlaps its own output."""
    if not 0 < offset <= len(output):
        raise ValueError("a compressed block refers to bytes before its start")
    source = bytes(output[len(output) - offset :])
    output += (source * (size // offset + 1))[:size]
