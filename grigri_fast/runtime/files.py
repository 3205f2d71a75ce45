"""Files: read what is a file and nothing else; write whole or not at all."""

import contextlib
import csv
import fcntl
import io
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..errors import GrigriError

_MAX_TEXT_BYTES = 2**30

StrPath: TypeAlias = str | os.PathLike[str]


class Stamp(NamedTuple):
    """What a file's status says about its content: the same stamp, the same content.

    A size and a time of modification are not enough: a camera's frames are all of one size, and
    ``cp -p``, ``tar`` and ``touch -d`` set that time. They do not set the time of change, which
    the system writes itself.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def stamp(path: str | Path) -> Stamp:
    """Return what identifies the content of a regular file, without opening it.

    Raises:
        GrigriError: as :func:`read_bytes`.
    """
    if "\0" in str(path):
        raise GrigriError("a file name cannot contain NUL")
    try:
        status = os.stat(path)  # noqa: PTH116 (twice as fast, for every image)
    except OSError as e:
        raise GrigriError(e.strerror or str(e)) from e
    if not stat.S_ISREG(status.st_mode):
        raise GrigriError("not a regular file")
    inode = (status.st_ino + 2**63) % 2**64 - 2**63  # signed, as SQLite stores it
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)


@contextlib.contextmanager
def open_regular(path: str | Path) -> Iterator[FileIO]:
    """Open a regular file to read its bytes, and open nothing else.

    Opening a FIFO would wait forever for a writer, and opening a device may have effects. So the
    kind of file is checked first, and again once the file is open, without waiting.

    Raises:
        GrigriError: if it is no regular file or cannot be read. The message is the reason alone;
            the caller knows the path.
    """
    stamp(path)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with FileIO(os.open(path, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise GrigriError("not a regular file")
            yield file
    except OSError as e:
        raise GrigriError(e.strerror or str(e)) from e


def read_bytes(path: str | Path, max_bytes: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        max_bytes: a larger one is an error.

    Raises:
        GrigriError: as :func:`open_regular`, or if it is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is not None and size > max_bytes:
            raise GrigriError(f"{size:,} bytes, more than the {max_bytes:,} that are read")
        return file.readall()


def read_text(path: str | Path) -> str:
    """Return the text of a regular UTF-8 file, with or without a byte-order mark.

    Raises:
        GrigriError: as :func:`read_bytes`, or if it is not UTF-8 or larger than 1 GiB.
    """
    try:
        return read_bytes(path, _MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise GrigriError(f"not UTF-8 text (byte {e.start})") from e


def cache_folder() -> Path:
    """Return the user's cache folder for this program; it need not exist."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "grigri-fast"


def lock(descriptor: int) -> bool:
    """Lock an open file or folder for this process; return whether no other process has it.

    The system ends the lock with the descriptor, however the process ends. On a file system without
    locks nothing is locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def write_at(descriptor: int, content: bytes | memoryview, place: int) -> None:
    """Write all of some bytes at a place of an open file; OSError if that is not possible."""
    left = memoryview(content)
    while left:
        num_bytes = os.pwrite(descriptor, left, place)
        left, place = left[num_bytes:], place + num_bytes


def write_atomic(path: Path, content: bytes | str, previous: Path | None = None) -> None:
    """Write a file whole or not at all; text as UTF-8.

    A temporary file in the same folder, flushed to the disk, takes the name in one step; then the
    folder is flushed, so that the name survives a power cut too. The file that ``path`` was before
    is kept under the name ``previous`` if there is one.

    Raises:
        GrigriError: if it cannot be written; what was at ``path`` before is intact.
    """
    # A file name that is not UTF-8 comes from the system with escapes and goes back as its bytes.
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=_temporary_prefix(path.name), delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        if previous is not None:
            with contextlib.suppress(FileNotFoundError):
                path.replace(previous)
        temporary.replace(path)
        temporary = None
        _flush(path.parent)
    except OSError as e:
        raise GrigriError(f"{path}: cannot be written: {e.strerror or e}") from e
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def unfinished_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder to write into, which becomes ``folder`` in one step when all went well.

    With ``replace`` a folder of that name goes then; until then it is there, and it is there again
    if the new one cannot take its name.
    """
    path = folder.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield unfinished
        for written in unfinished.iterdir():
            _flush(written)
        unfinished.chmod(0o755)
        if replace and path.is_dir():
            with _moved_away(path):
                unfinished.rename(path)
        else:
            unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _moved_away(path: Path) -> Iterator[None]:
    """Give a folder's name away; afterwards the folder is removed, or has its name again."""
    away = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    path.rename(away)  # in the place of the empty one
    try:
        yield
    except BaseException:
        away.rename(path)
        raise
    shutil.rmtree(away, ignore_errors=True)


def require_writable(out: Path, *suffixes: str, hint: str = "") -> None:
    """Raise GrigriError, before the work, if a command could not write its ``--out`` file.

    Its name may have any suffix where none is given.
    """
    if suffixes and out.suffix.lower() not in suffixes:
        names = " or ".join(suffixes)
        raise GrigriError(f"--out {out}: expected a name that ends in {names}{hint}")
    if out.is_dir():
        raise GrigriError(f"--out {out}: it is a folder")
    if not out.parent.is_dir():
        raise GrigriError(f"--out {out}: there is no folder {out.parent}")


def remove_unfinished(folder: Path, names: list[str]) -> None:
    """Remove the temporary files that a killed process left of these files in a folder."""
    for name in names:
        for left in folder.glob(f"{_temporary_prefix(name)}*"):
            with contextlib.suppress(OSError):
                left.unlink()


def _temporary_prefix(name: str) -> str:
    return f".{name}.unfinished-"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ------------------------------------------------------------------------------ JSON, CSV


def to_json(content: Any) -> str:
    """Return ``content`` as JSON text; NaN, which JSON does not have, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically."""
    write_atomic(path, to_json(content))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in one of a run folder's JSON files; an empty one if there is no file.

    Raises:
        GrigriError: if it cannot be read, or holds no JSON object.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(read_text(path))
    except GrigriError as e:
        raise GrigriError(f"{path}: {e}") from e
    except (ValueError, RecursionError) as e:
        raise GrigriError(f"{path}: not valid JSON: {e}") from e
    if not isinstance(content, dict):
        raise GrigriError(f"{path}: not written by grigri-fast")
    return content


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return the CSV text of rows that share their keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown(path: str | Path) -> Path:
    """Return a path as a person would write it: relative if it is below the current folder."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
