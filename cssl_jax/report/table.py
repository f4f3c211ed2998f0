"""One table, and its text for the terminal, for Markdown and for HTML."""

import dataclasses
from collections.abc import Sequence

from cssl_jax.report.escape import plain, text

Cell = str | float | None
NONE = "-"  # text of a cell without a value
LABELS = 20  # minimum number of characters of a row's name in the terminal


@dataclasses.dataclass(frozen=True)
class Column:
    """Title and number format of a column.

    Attributes:
        title: Text above the column.
        unit: "%" shows a fraction in percent; another unit follows the number; "" shows none.
        decimals: Number of decimals.
        width: Number of characters in the terminal.
    """

    title: str
    unit: str = ""
    decimals: int = 1
    width: int = 16

    def format(self, value: Cell) -> str:
        """Text of a cell: text as it is, a number in the column's format, "-" for None."""
        if value is None or isinstance(value, str):
            return NONE if value is None else value
        number = f"{100 * value if self.unit == '%' else value:.{self.decimals}f}"
        return f"{number} {self.unit}" if self.unit else number


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first column has the names of the rows.

    Attributes:
        head: Columns; a text is the title of a column of text.
        rows: Cells per row, one per column.

    Example:
        >>> table = Table(["", Column("top-1", "%")], [["trained", 0.912], ["pixels", None]])
        >>> print(to_terminal(table))
                                       top-1
        trained                       91.2 %
        pixels                             -
        >>> to_markdown(table)
        ['|  | top-1 |', '| --- | ---: |', '| trained | 91.2 % |', '| pixels | - |']
    """

    head: Sequence[str | Column]
    rows: Sequence[Sequence[Cell]]

    @property
    def columns(self) -> list[Column]:
        """The columns with their formats."""
        return [Column(entry) if isinstance(entry, str) else entry for entry in self.head]

    @property
    def titles(self) -> list[str]:
        """Title per column."""
        return [column.title for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """Text of the cells per row."""
        columns = self.columns
        return [
            [column.format(value) for column, value in zip(columns, row, strict=True)]
            for row in self.rows
        ]


def to_terminal(table: Table) -> str:
    """A table as lines of plain text, with columns aligned on the right."""
    widths = [column.width for column in table.columns[1:]]
    labels = max(LABELS, *(len(row[0]) for row in (table.titles, *table.cells)))
    return "\n".join(
        f"{row[0]:<{labels}}"
        + "".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        for row in (table.titles, *table.cells)
    )


def to_markdown(table: Table) -> list[str]:
    """A table as lines of Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(plain, cells)) + " |"

    ruler = "|" + "|".join([" --- ", *[" ---: "] * (len(table.head) - 1)]) + "|"
    return [line(table.titles), ruler, *map(line, table.cells)]


def to_html(table: Table, kind: str = "") -> str:
    """A table as HTML; the cells of its first column are row headings.

    Args:
        table: Table to draw.
        kind: CSS class: "" for numbers, "words" for left-aligned text, "trials" for a sweep.
    """
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in table.titles)
    rows = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.cells
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
