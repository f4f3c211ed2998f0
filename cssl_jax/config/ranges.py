"""Ranges of the numbers in a config."""

import math
from collections.abc import Callable
from typing import NamedTuple


class Range(NamedTuple):
    """A set of allowed numbers.

    Attributes:
        fits: Number -> True if it is allowed.
        wanted: Noun phrase for the allowed numbers, for messages.
    """

    fits: Callable[[float], bool]
    wanted: str


POSITIVE = Range(lambda value: 0 < value < math.inf, "a positive number")
NOT_NEGATIVE = Range(lambda value: 0 <= value < math.inf, "zero or a positive number")
BELOW_ONE = Range(lambda value: 0 <= value < 1, "a number within [0, 1)")
SHARE = Range(lambda value: 0 < value <= 1, "a number within (0, 1]")
FRACTION = Range(lambda value: 0 <= value <= 1, "a fraction within [0, 1]")
