"""What checking an image file showed, remembered in the user's cache for the next run."""

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..runtime import files
from .image_file import Stamp

_TABLE = """
CREATE TABLE IF NOT EXISTS verdict (
    path BLOB PRIMARY KEY, size_bytes INTEGER, mtime_ns INTEGER,
    crc32 INTEGER, height_px INTEGER, width_px INTEGER, reason TEXT
) WITHOUT ROWID
"""
_AT_A_TIME = 500  # paths in a query
_PATIENCE_S = 5  # how long to wait for another process that writes


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What is known of a file's content.

    Attributes:
        crc32: of the encoded bytes.
        height_px, width_px: decoded size, after EXIF orientation.
        reason: why it cannot be decoded, or "".
    """

    crc32: int
    height_px: int = 0
    width_px: int = 0
    reason: str = ""


class CheckCache:
    """The remembered verdicts, by path and stamp: a SQLite file, which many processes may share.

    A cache that cannot be used is as good as an empty one: nothing here raises.

    Args:
        decoder: name and version of what decodes; another one's verdicts are not used.
    """

    def __init__(self, decoder: str) -> None:
        self._file = files.cache_folder() / f"checked-1-{decoder}.sqlite"
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        for _ in range(2):
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(self._file, timeout=_PATIENCE_S)
                with self._database:
                    self._database.execute(_TABLE)
                break
            except sqlite3.OperationalError:  # locked, no space, not to be written
                self._forget()
                break
            except (sqlite3.DatabaseError, OSError):  # damaged: start anew
                self._forget()
                with contextlib.suppress(OSError):
                    self._file.unlink()
        return self

    def __exit__(self, *exception: object) -> None:
        self._forget()

    def known(self, stamps: dict[Path, Stamp]) -> dict[Path, FileCheck]:
        """Return the verdicts on those files that are as they were."""
        found = {}
        by_key = {_key(path): path for path in stamps}
        keys = list(by_key)
        for first in range(0, len(keys), _AT_A_TIME):
            for key, size, mtime, *verdict in self._rows(keys[first : first + _AT_A_TIME]):
                path = by_key[key]
                if stamps[path] == (size, mtime):
                    found[path] = FileCheck(*verdict)
        return found

    def remember(self, found: Sequence[tuple[Path, Stamp, FileCheck]]) -> None:
        """Store verdicts, in one transaction."""
        if self._database is None:
            return
        rows = [
            (_key(p), *stamp, v.crc32, v.height_px, v.width_px, v.reason) for p, stamp, v in found
        ]
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?)", rows
                )
        except sqlite3.Error:
            self._forget()

    def _rows(self, keys: list[bytes]) -> list[tuple]:
        if self._database is None:
            return []
        marks = ",".join("?" * len(keys))
        try:
            return self._database.execute(
                f"SELECT * FROM verdict WHERE path IN ({marks})", keys
            ).fetchall()
        except sqlite3.Error:
            self._forget()
            return []

    def _forget(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None


def _key(path: Path) -> bytes:
    return os.fsencode(path.absolute())
