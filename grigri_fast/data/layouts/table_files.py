"""Files that are tables, of every kind that is read."""

from collections.abc import Callable
from pathlib import Path

from ...errors import GrigriError
from .json_lines import read_json_lines
from .reading import head
from .spreadsheet import read_parquet, read_workbook
from .table import Table, read_text_table

_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": read_text_table,
    ".tsv": read_text_table,
    ".jsonl": read_json_lines,
    ".xlsx": read_workbook,
    ".parquet": read_parquet,
}
TABLE_SUFFIXES = frozenset(_READERS)
# What to do with tables that are not read.
_OTHERS = {
    ".xls": "save it as .xlsx or CSV",
    ".xlsm": "save it as .xlsx or CSV",
    ".ods": "save it as .xlsx or CSV",
    ".numbers": "export it as CSV",
    ".feather": "save it as .parquet or CSV",
    ".pkl": "save the table as .parquet or CSV; a pickle can run programs and is never read",
    ".txt": "write a table with a header such as image,labels and call it .csv or .tsv",
    ".json": "write an object with file_name and labels on each line and call it .jsonl",
}


def advice(file: Path) -> str:
    """Return what to do with a file that is no table that is read, "" if nothing is known."""
    return _OTHERS.get(file.suffix.lower(), "")


def read_any(file: Path) -> Table:
    """Return the table in a file.

    Raises:
        GrigriError: if it is none.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise GrigriError(f"{file} is no table ({', '.join(sorted(TABLE_SUFFIXES))})")
    return reader(file)


def first_line(file: Path) -> str:
    """Return the first line of a text file that is not blank, to guess what the file is."""
    return next((line for line in head(file, 10_000).splitlines() if line.strip()), "")
