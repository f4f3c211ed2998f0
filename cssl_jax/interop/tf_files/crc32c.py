"""CRC-32C (Castagnoli) of bytes, in NumPy, as TensorFlow's files store it."""

import math

import numpy as np

_POLYNOMIAL = 0x82F63B78  # RFC 3720, appendix B.4, with reflected bits
_SHORT = 4096  # bytes up to which a loop over bytes is as fast


def masked_crc32c(content: bytes | np.ndarray) -> int:
    """Checksum as TensorFlow stores it: CRC-32C, rotated and shifted.

    Args:
        content: Bytes, or an array of uint8.

    Example:
        >>> hex(masked_crc32c(b"123456789"))  # the CRC-32C of this text is 0xe3069283
        '0xc78ab0e5'
    """
    data = np.frombuffer(content, np.uint8)
    crc = (_of_lanes(data) if data.size > _SHORT else _of_bytes(data, 0xFFFFFFFF)) ^ 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> np.ndarray:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, crc >> 1 ^ np.uint32(_POLYNOMIAL), crc >> 1)
    return crc


_TABLE = _table()
_NUMBERS = tuple(_TABLE.tolist())


def _of_bytes(data: np.ndarray, crc: int) -> int:
    for byte in data.tobytes():
        crc = _NUMBERS[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _of_lanes(data: np.ndarray) -> int:
    """Register after all bytes: about sqrt(n) lanes are processed at once and then joined."""
    lanes = math.isqrt(data.size)
    length = data.size // lanes
    columns = np.ascontiguousarray(data[: lanes * length].reshape(lanes, length).T)
    registers = np.zeros(lanes, np.uint32)
    registers[0] = 0xFFFFFFFF
    # The register is linear in its bits: those of single bits after as many zero bytes as a lane
    # has give that of any register.
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for column in columns:
        registers = _TABLE[(registers ^ column) & 0xFF] ^ (registers >> 8)
        bits = _TABLE[bits & 0xFF] ^ (bits >> 8)
    shifted, crc = bits.tolist(), 0
    for register in registers.tolist():
        moved = 0
        for i in range(32):
            if crc >> i & 1:
                moved ^= shifted[i]
        crc = moved ^ register
    return _of_bytes(data[lanes * length :], crc)
