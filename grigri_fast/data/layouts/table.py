"""Tables as rows of text: CSV and TSV files; :mod:`spreadsheet` reads the other kinds."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...errors import GrigriError
from .reading import read_text

TEXT_SUFFIXES = frozenset({".csv", ".tsv"})
_DELIMITERS = ",\t;"


@dataclass(frozen=True)
class Table:
    """A header and rows of cells, all text without spaces around it.

    Attributes:
        file: where it was read.
        header: the columns' names, each once.
        rows: the cells, as many in each row as the header has.
        lines: the number of the line on which each row ends.
    """

    file: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    @cached_property
    def columns(self) -> list[tuple[str, ...]]:
        """The cells column by column."""
        return list(zip(*self.rows, strict=True))

    @cached_property
    def values(self) -> list[Counter[str]]:
        """How often each value stands in each column."""
        return [Counter(column) for column in self.columns]

    def where(self, row: int, column: int | None = None) -> str:
        """Return the place of a row or a cell, in words."""
        place = f"{self.file} line {self.lines[row]}"
        return place if column is None else f"{place}, column {self.header[column]!r}"

    def find(self, column: int, value: str) -> int:
        """Return the first row with this value in a column."""
        return self.columns[column].index(value)

    def column(self, name: str, flag: str) -> int:
        """Return the number of a column that an option names.

        Raises:
            GrigriError: if there is none of this name.
        """
        if name in self.header:
            return self.header.index(name)
        alike = [i for i, other in enumerate(self.header) if other.casefold() == name.casefold()]
        if len(alike) == 1:
            return alike[0]
        raise GrigriError(
            f"{self.file}: {flag} {name}: no such column; there are {', '.join(self.header)}"
        )


def read_text_table(file: Path) -> Table:
    """Read a CSV or TSV file; the delimiter is what the header has most of: comma, tab, semicolon.

    Raises:
        GrigriError: if it is not a table: no header, a column twice, rows of other lengths.
    """
    text = read_text(file)
    delimiter = max(_DELIMITERS, key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as e:
        raise GrigriError(f"{file}: not a valid CSV: {e}") from e
    return make_table(file, rows)


def make_table(file: Path, rows: Sequence[tuple[int, Sequence[str]]]) -> Table:
    """Return a table of rows with their line numbers; the first row is the header.

    Raises:
        GrigriError: as for :func:`read_text_table`.
    """
    stripped = [(line, [cell.strip() for cell in row]) for line, row in rows]
    stripped = [(line, row) for line, row in stripped if any(row)]
    header = stripped[0][1] if stripped else []
    body = stripped[1:]
    if len(header) < 2 or not body:
        raise GrigriError(f"{file}: expected a header (image,labels or image,<class>...) and rows")
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    if repeated:
        raise GrigriError(f"{file} line 1: the column {repeated[0]!r} stands there twice")
    for line, row in body:
        if len(row) != len(header):
            raise GrigriError(
                f"{file} line {line}: {len(row)} cells where the header has {len(header)}"
            )
    return Table(file, header, [row for _, row in body], [line for line, _ in body])
