"""Result of the examination of a set of series, recordings or texts."""

import dataclasses
from typing import Any

from cssl_jax.files import csv_text


@dataclasses.dataclass(frozen=True)
class SetCheck:
    """What an examination found; its text is the report of ``cssl-jax data check``.

    Attributes:
        content: All values of the report as JSON types. "rejected", where a run excludes examples,
            has their names, reasons and details.
        text: The report.
    """

    content: dict[str, Any]
    text: str

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """Returns all values of the report as JSON types."""
        return self.content

    def rejected_csv(self) -> str:
        """Returns a list of the examples that a run would exclude, with the reasons."""
        return csv_text([("name", "reason", "detail"), *self.content.get("rejected", ())])
