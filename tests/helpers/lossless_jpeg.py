"""Lossless JPEG files (process 14, SOF3), which Pillow reads and TensorFlow does not."""

import struct

import numpy as np


def encode(pixels):
    """A grey image uint8 [h, w], by the predictor to the left (ITU-T T.81, annex H)."""
    height, width = pixels.shape
    values = pixels.astype(int)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 128
    bits = "".join(map(_coded, (values - predicted).ravel()))
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)),
            # Nine codes of four bits, for the categories 0 to 8.
            _segment(0xC4, bytes([0, *(0, 0, 0, 9), *[0] * 12, *range(9)])),
            _segment(0xDA, bytes([1, 1, 0, 1, 0, 0])),
            data.replace(b"\xff", b"\xff\x00"),
            b"\xff\xd9",
        ]
    )


def _coded(difference):
    category = int(abs(difference)).bit_length()
    if not category:
        return "0000"
    number = difference if difference > 0 else difference + (1 << category) - 1
    return f"{category:04b}{number:0{category}b}"


def _segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
