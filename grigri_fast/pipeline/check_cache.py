"""What checking a good image file showed, remembered in the user's cache for the next run.

What is wrong with a file is not remembered: a refusal is always verified again.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Self

from ..runtime import files
from .image_file import FileCheck, Stamp

_TABLE = """
CREATE TABLE IF NOT EXISTS verdict (
    path BLOB PRIMARY KEY,
    size_bytes INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER,
    crc32 INTEGER, height_px INTEGER, width_px INTEGER, by_pillow INTEGER
) WITHOUT ROWID
"""
_MARKS = ",".join("?" * 9)
_AT_A_TIME = 500  # paths in a query
_STORE_EVERY = 2048  # results in a transaction
_TIMEOUT_S = 5  # how long to wait for another process that writes


class CheckCache:
    """Remembered results, by path and stamp: a SQLite file, which many processes may share.

    A cache that cannot be used is as good as an empty one: nothing here raises. What was added is
    stored at the latest when the context ends, after an exception too.

    Args:
        decoder: name and version of what decodes; results of another one are not used.
        is_used: whether to read and write anything at all.
    """

    def __init__(self, decoder: str, is_used: bool = True) -> None:
        self._file = files.cache_folder() / f"checked-2-{decoder}.sqlite"
        self._is_used = is_used
        self._database: sqlite3.Connection | None = None
        self._new: list[tuple] = []

    def __enter__(self) -> Self:
        for _ in range(2 if self._is_used else 0):
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(self._file, timeout=_TIMEOUT_S)
                with self._database:
                    self._database.execute(_TABLE)
                break
            except sqlite3.OperationalError:  # locked, no space, not to be written
                self._close()
                break
            except (sqlite3.DatabaseError, OSError):  # damaged: start anew
                self._close()
                with contextlib.suppress(OSError):
                    self._file.unlink()
        return self

    def __exit__(self, *exception: object) -> None:
        self._store()
        self._close()

    def known(self, stamps: dict[Path, Stamp]) -> dict[Path, FileCheck]:
        """Return the results of those files that are as they were."""
        results = {}
        by_key = {_key(path): path for path in stamps}
        keys = list(by_key)
        for first in range(0, len(keys), _AT_A_TIME):
            for key, *columns in self._rows(keys[first : first + _AT_A_TIME]):
                path = by_key[key]
                num = len(Stamp._fields)
                if stamps[path] == tuple(columns[:num]):
                    crc32, height, width, by_pillow = columns[num:]
                    results[path] = FileCheck(crc32, height, width, by_pillow=bool(by_pillow))
        return results

    def add(self, path: Path, stamp: Stamp, result: FileCheck) -> None:
        """Remember a result, if the file is good."""
        if result.reason:
            return
        size = result.height_px, result.width_px
        self._new.append((_key(path), *stamp, result.crc32, *size, result.by_pillow))
        if len(self._new) >= _STORE_EVERY:
            self._store()

    def forget(self, path: Path) -> None:
        """Forget what is remembered of a file, whose content has turned out to be another one."""
        if self._database is not None:
            try:
                with self._database:
                    self._database.execute("DELETE FROM verdict WHERE path = ?", (_key(path),))
            except sqlite3.Error:
                self._close()

    def _store(self) -> None:
        if self._database is not None:
            try:
                with self._database:
                    self._database.executemany(
                        f"INSERT OR REPLACE INTO verdict VALUES ({_MARKS})", self._new
                    )
            except sqlite3.Error:
                self._close()
        self._new.clear()

    def _rows(self, keys: list[bytes]) -> list[tuple]:
        if self._database is None:
            return []
        marks = ",".join("?" * len(keys))
        try:
            return self._database.execute(
                f"SELECT * FROM verdict WHERE path IN ({marks})", keys
            ).fetchall()
        except sqlite3.Error:
            self._close()
            return []

    def _close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None


def _key(path: Path) -> bytes:
    return os.fsencode(path.absolute())
