"""Tables that are no text: Excel workbooks and Parquet files, by libraries that may be missing."""

import datetime
import json
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from ...runtime import files
from .table import Table, make_table

_NEEDS = "{}: {} files need {name}: pip install {name}; or save the table as CSV"
_MAX_CELLS = 100_000_000
_MAX_BYTES = 2**30


def read_workbook(file: Path) -> Table:
    """Read the one sheet of an Excel workbook (.xlsx) that has something in it.

    Numbers become texts as they are shown, 1.0 as "1"; a formula has the value that Excel stored.

    Raises:
        GrigriError: if openpyxl is missing, if it is no workbook, or if several sheets have rows.
    """
    try:
        import openpyxl
    except ImportError as e:
        raise GrigriError(_NEEDS.format(file, ".xlsx", name="openpyxl")) from e
    _check_readable(file)
    _check_size(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and the like
        try:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheets = {sheet.title: _rows_of(file, sheet) for sheet in book.worksheets}
            book.close()
        except GrigriError:
            raise
        except Exception as e:  # a damaged file can make every kind
            raise GrigriError(f"{file}: not a readable .xlsx workbook: {_words(e)}") from e
    full = {title: rows for title, rows in sheets.items() if rows}
    if len(full) > 1:
        names = ", ".join(repr(title) for title in list(full)[:4])
        raise GrigriError(
            f"{file}: the sheets {names} have rows; save the one with the labels as a file of its"
            " own"
        )
    return make_table(file, next(iter(full.values()), []))


def _check_size(file: Path) -> None:
    """Refuse what is no ZIP archive, or one of a few KB that unpacks to gigabytes."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
        raise GrigriError(f"{file}: not a readable .xlsx workbook: {_words(e)}") from e
    if size > _MAX_BYTES:
        raise GrigriError(f"{file}: unpacks to {size:,} bytes, too much for labels")


def _rows_of(file: Path, sheet: Any) -> list[tuple[int, list[str]]]:
    """Return the rows of a sheet that are not empty, with their numbers."""
    if hasattr(sheet, "reset_dimensions"):
        sheet.reset_dimensions()  # what a file says of its size may be wrong
    rows, num_cells = [], 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        num_cells += len(row)
        if num_cells > _MAX_CELLS:
            raise GrigriError(f"{file}: more than {_MAX_CELLS:,} cells; save it as CSV")
        if any(value is not None for value in row):
            texts = [_text(value) for value in row]
            odd = next((text for text in texts if text.startswith(_ERRORS)), None)
            if odd is not None:
                raise GrigriError(f"{file} line {number}: a formula gives {odd}; mend it in Excel")
            rows.append((number, texts))
    return rows


_ERRORS = ("#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!")


def read_parquet(file: Path) -> Table:
    """Read a Parquet file; lists become JSON.

    Raises:
        GrigriError: if pyarrow is missing, or if it is no Parquet file or holds the images
            themselves.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise GrigriError(_NEEDS.format(file, ".parquet", name="pyarrow")) from e
    _check_readable(file)
    try:
        found = pyarrow.parquet.ParquetFile(file)
        for field in found.schema_arrow:
            if any(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
                   for kind in _kinds(field.type)):  # fmt: skip
                raise GrigriError(
                    f"{file}: the column {field.name!r} holds bytes, as of images within the"
                    " table; save the images as files and their names in a column"
                )
        if found.metadata.num_rows * found.metadata.num_columns > _MAX_CELLS:
            raise GrigriError(f"{file}: more than {_MAX_CELLS:,} cells")
        columns = found.read().to_pydict()
    except GrigriError:
        raise
    except Exception as e:  # a damaged file can make every kind
        raise GrigriError(f"{file}: not a readable .parquet file: {_words(e)}") from e
    columns = {name: cells for name, cells in columns.items() if not name.startswith("__index_")}
    texts = [_column(cells) for cells in columns.values()]
    rows = [(number, list(row)) for number, row in enumerate(zip(*texts, strict=True), start=1)]
    return make_table(file, [(0, list(columns)), *rows])


def _kinds(kind: Any) -> Iterable[Any]:
    yield kind
    for i in range(kind.num_fields):
        yield from _kinds(kind.field(i).type)


def _column(cells: list[Any]) -> list[str]:
    """Return a column's cells as text; where there are lists, a text is a list of one."""
    if not any(isinstance(cell, list) for cell in cells):
        return [_text(cell) for cell in cells]
    return ["" if c is None else json.dumps(c if isinstance(c, list) else [_text(c)], default=_text)
            for c in cells]  # fmt: skip


def _text(value: Any) -> str:
    """Return a cell's value as a text: whole numbers without ``.0``, days without midnight."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | dict):
        return json.dumps(value, default=_text)
    return str(value)


def _check_readable(file: Path) -> None:
    try:
        files.stamp(file)
    except GrigriError as e:
        raise GrigriError(f"{file}: {e}") from e


def _words(error: Exception) -> str:
    """Return what went wrong, in one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
