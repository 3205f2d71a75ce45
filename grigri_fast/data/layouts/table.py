"""Tables as rows of text: CSV and TSV files; :mod:`spreadsheet` reads the other kinds."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...errors import GrigriError
from .reading import read_text

TEXT_SUFFIXES = frozenset({".csv", ".tsv"})
NAMED = 20  # columns in a message; a table may have thousands
_DELIMITERS = ",\t;"
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


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

    def lacks(self, names: Sequence[str]) -> list[str]:
        """Return those of some columns that the table does not have."""
        return [name for name in names if name not in self.header]

    def only(self, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield the line of each row, and its cells in some columns, in that order."""
        places = [self.header.index(name) for name in names]
        for line, cells in zip(self.lines, self.rows, strict=True):
            yield line, [cells[i] for i in places]

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
            f"{self.file}: {flag} {name}: no such column; there are"
            f" {', '.join(self.header[:NAMED])}{', ...' if len(self.header) > NAMED else ''}"
        )


def read_text_rows(file: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV or TSV file with the numbers of the lines on which they end.

    The delimiter is what the first line has most of, comma, tab or semicolon, or what a first line
    such as ``sep=;`` names, which Excel reads.

    Raises:
        GrigriError: if it is no CSV.
    """
    return list(_rows_in(file))


def _rows_in(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield what :func:`read_text_rows` returns."""
    text = read_text(file)
    first, _, rest = text.partition("\n")
    named = re.fullmatch(r"sep=(.)", first.strip(" \r"), re.IGNORECASE)
    delimiter = named[1] if named else max(_DELIMITERS, key=first.count)
    # Not io.StringIO, which takes four bytes for each character.
    lines = (line[0] for line in _LINE.finditer(rest if named else text))
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        for row in reader:
            yield reader.line_num + bool(named), row
    except (csv.Error, ValueError) as e:
        raise GrigriError(f"{file}: not a valid CSV: {e}") from e


def read_text_table(file: Path) -> Table:
    """Read a CSV or TSV file.

    Raises:
        GrigriError: if it is not a table: no header, a column twice, rows of other lengths.
    """
    return make_table(file, _rows_in(file))


def make_table(file: Path, rows: Iterable[tuple[int, Sequence[str]]]) -> Table:
    """Return a table of rows with their line numbers; the first row is the header.

    Empty rows, and empty columns at the end, are left out: spreadsheets write them.

    Raises:
        GrigriError: as for :func:`read_text_table`.
    """
    header: list[str] = []
    body: list[list[str]] = []
    lines: list[int] = []
    odd: tuple[int, int] | None = None  # line and number of cells of the first row that is too long
    for line, written in rows:  # of which there may be millions: they are kept once
        row = _without_empty_end([cell.strip() for cell in written])
        if not header:
            header = row
        elif row:
            if odd is None and not len(row) <= len(header) <= len(written):
                odd = line, len(written)
            body.append(row + [""] * (len(header) - len(row)))
            lines.append(line)
    if len(header) < 2 or not body:
        raise GrigriError(f"{file}: expected a header (image,labels or image,<class>...) and rows")
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    if repeated:
        raise GrigriError(f"{file} line 1: the column {repeated[0]!r} stands there twice")
    if odd is not None:
        line, num_cells = odd
        raise GrigriError(
            f"{file} line {line}: {num_cells} cells where the header has {len(header)}"
        )
    return Table(file, header, body, lines)


def _without_empty_end(row: list[str]) -> list[str]:
    while row and not row[-1]:
        row.pop()
    return row
