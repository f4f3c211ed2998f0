"""Test parameters that only ``make test-full`` runs."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """One set of test parameters, marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


def fast(values: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """Values of one test parameter, all of which are marked slow but the chosen ones.

    Raises:
        ValueError: A chosen value is not among the values.
    """
    values = list(values)
    unknown = [value for value in chosen if value not in values]
    if unknown:
        raise ValueError(f"{unknown} are not among the values {values}")
    return [
        pytest.param(value, id=value if isinstance(value, str) else None, marks=marks)
        for value in values
        for marks in [[] if value in chosen else pytest.mark.slow]
    ]
