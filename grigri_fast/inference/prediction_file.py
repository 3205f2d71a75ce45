"""The file of ``predict --out``: it grows while images are labelled, and can be gone on with.

What is in the file is whole rows at any time (JSON: a closed list), so it can be read while it
grows. Beside an unfinished file lies a note, ``FILE.resume``: what it is made with, and up to where
it is safe on the disk, with a checksum. The file itself has the documented format and nothing else,
so a file that was interrupted ends as the same bytes as one that was not. The note goes when the
file is done.
"""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import signal
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..errors import GrigriError, Interrupted
from ..runtime import files
from .prediction import Prediction, csv_head, csv_rows, json_objects

if TYPE_CHECKING:
    from ..runtime.compute import Compute

_FORMAT = "grigri-fast unfinished predictions 1"
_STORE_EVERY_S = 5.0  # assumed: what a power cut may cost
_PIECE_BYTES = 2**20
_JSON_IMAGE = '    "image": '  # how its line begins in the file, and no other line


@dataclass(frozen=True)
class Progress:
    """How far a file is.

    Attributes:
        size_bytes: of the rows, without what closes a JSON list.
        crc32: of these bytes.
        images: rows.
        errors: rows of files that cannot be used.
        first_error: the first of them and its reason.
    """

    size_bytes: int = 0
    crc32: int = 0
    images: int = 0
    errors: int = 0
    first_error: str = ""

    def plus(self, data: bytes, predictions: Sequence[Prediction]) -> "Progress":
        """Return the progress when the rows of some predictions have been added."""
        bad = [f"{p.path}: {p.error}" for p in predictions if p.error]
        return Progress(
            self.size_bytes + len(data),
            zlib.crc32(data, self.crc32),
            self.images + len(predictions),
            self.errors + len(bad),
            self.first_error or next(iter(bad), ""),
        )


def note_of(out: Path) -> Path:
    """Return the name of the note beside an unfinished file."""
    return out.with_name(f"{out.name}.resume")


def _previous_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.previous")


def require_can_begin(out: Path, resume: bool) -> None:
    """Raise GrigriError, before the work, where an unfinished file would be lost, or none is."""
    note, previous = note_of(out), _previous_of(out)
    if not out.exists():
        return
    if not resume and note.exists():
        raise GrigriError(
            f"--out {out}: it is unfinished: go on with --resume, name another file, or remove it"
        )
    if resume and not note.exists():
        raise GrigriError(
            f"--resume: {out} is finished, or was not begun by predict: there is no {note} beside"
            " it"
        )
    if not resume and previous.exists():
        raise GrigriError(
            f"--out {out}: {previous} is in the way, which an interrupted predict has left: rename"
            " or remove it"
        )


def made_by(model: Path, engine: str, compute: "Compute", max_pixels: int) -> dict[str, Any]:
    """Return what the rows depend on beside the images.

    The digest is of the whole file of the model: weights, class names, thresholds, preprocessing.
    """
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "model": digest,
        "--engine": engine,
        "--device": compute.device.type,
        "--amp": compute.amp,
        "--max-pixels": max_pixels,
    }


class PredictionFile:
    """A file that predictions are added to; a context, which ends with a whole file in any case.

    A finished file of the same name is kept as ``FILE.previous`` until the new one is finished.

    Args:
        out: its name, which ends in ``.csv`` or ``.json``.
        class_names: in the order of the columns.
        made_by: what :func:`made_by` returns.
        paths: all images.
        resume: whether to go on with an unfinished file, if there is one.

    Attributes:
        progress: how far it is.
        left: images that have no row yet: all, or those that follow the rows. Where the list has
            changed since, the rows stay, and images without a row follow in the order of the list.
        has_changed: whether it has changed among the images that have rows.

    Raises:
        GrigriError: if it cannot be written, or is not what may be gone on with; also from the
            other methods.
    """

    def __init__(
        self,
        out: Path,
        class_names: Sequence[str],
        made_by: dict[str, Any],
        paths: Sequence[Path],
        resume: bool = False,
    ) -> None:
        self._out, self._class_names, self._made_by = out, class_names, made_by
        self._is_json = out.suffix.lower() == ".json"
        self._descriptor, self._has_previous = -1, False
        self._stored_s = time.monotonic()
        self.progress = Progress()
        self.left, self.has_changed = paths, False
        require_can_begin(out, resume)
        try:
            if resume and out.exists():
                self._go_on(paths)
            else:
                self._begin()
        except OSError as e:
            raise self._unwritable(e) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Leave a whole file; say how to go on with it, where it is not finished."""
        if kind is None:
            return
        self._leave()
        advice = ""
        if self.progress.images and self._is_there():
            advice = (
                f"{self._out} has the first {self.progress.images:,} images: the same command with"
                " --resume goes on"
            )
        self._close()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(signal.SIGINT, advice) from error
        if isinstance(error, Interrupted):
            raise Interrupted(error.signum, advice) from error
        if isinstance(error, GrigriError) and advice:
            raise GrigriError(f"{error}; {advice}") from error

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Write the rows of some images."""
        if self._is_json:
            text = json_objects(predictions)
            text = f",{text}" if self.progress.images else text
        else:
            text = csv_rows(predictions, self._class_names)
        try:
            self._append(text, predictions)
            if time.monotonic() - self._stored_s > _STORE_EVERY_S:
                self._store()
        except OSError as e:
            raise self._unwritable(e) from e

    def finish(self) -> None:
        """Make sure that the file is on the disk, and remove the note and the file before it."""
        try:
            self._store()
            note_of(self._out).unlink()
            if self._has_previous:
                _previous_of(self._out).unlink(missing_ok=True)
        except OSError as e:
            raise self._unwritable(e) from e
        self._close()

    # ------------------------------------------------------------------------------- beginning

    def _begin(self) -> None:
        """Begin a file; one of its name that is finished is kept."""
        if self._out.exists():
            self._out.rename(_previous_of(self._out))
            self._has_previous = True
        try:
            self._descriptor = os.open(self._out, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._lock()
            self._append("[" if self._is_json else csv_head(self._class_names), [])
            self._store()
        except BaseException:
            self._leave()
            self._close()
            raise

    def _go_on(self, paths: Sequence[Path]) -> None:
        """Go on with an unfinished file, from where it is safe on the disk."""
        fields = files.read_json(note_of(self._out))
        try:
            if fields["format"] != _FORMAT:
                raise ValueError(f"format {fields['format']!r}")
            progress = Progress(**fields["progress"])
            before, self._has_previous = dict(fields["made_by"]), bool(fields["has_previous"])
        except (KeyError, TypeError, ValueError) as e:
            raise GrigriError(f"{note_of(self._out)}: not written by predict: {e}") from e
        self._require_same(before)
        self._descriptor = os.open(self._out, os.O_RDWR)
        try:
            self._lock()
            if self._crc32(progress.size_bytes) != progress.crc32:
                raise GrigriError(
                    f"--resume: {self._out} has been changed since: name another file"
                )
            self.progress = progress
            self._cut_off()
            self.left = self._without_rows(paths)
        except BaseException:
            self._close()
            raise

    def _require_same(self, before: dict[str, Any]) -> None:
        """Raise GrigriError if the rows that are there were made in another way."""
        for name, value in self._made_by.items():
            if before.get(name, value) == value:  # notes of earlier versions have no engine
                continue
            what = f"{name} {before[name]}, not {value}"
            if name == "model":
                what = "another model, or its thresholds have been changed since"
            raise GrigriError(f"--resume: {self._out} was begun with {what}: name another file")

    def _crc32(self, size_bytes: int) -> int | None:
        """Return the checksum of the first bytes, None if there are fewer."""
        crc32, done = 0, 0
        while done < size_bytes:
            piece = os.pread(self._descriptor, min(_PIECE_BYTES, size_bytes - done), done)
            if not piece:
                return None
            crc32, done = zlib.crc32(piece, crc32), done + len(piece)
        return crc32

    def _without_rows(self, paths: Sequence[Path]) -> Sequence[Path]:
        """Return the images that have no row; rows are those of the first images, as a rule."""
        names = self._images()
        num = 0
        for name in names:
            if num < len(paths) and str(paths[num]) == name:
                num += 1
                continue
            self.has_changed = True
            have = {name, *names}
            left = [path for path in paths[num:] if str(path) not in have]
            if len(left) == len(paths):
                raise GrigriError(
                    f"--resume: {self._out} has none of these images: name them as before, or"
                    " another file"
                )
            return left
        return paths[num:]

    def _images(self) -> Iterator[str]:
        """Yield the image of each row."""
        newline = "\n" if self._is_json else ""
        with self._out.open(encoding="utf-8", errors="surrogateescape", newline=newline) as file:
            if self._is_json:
                for line in file:
                    if line.startswith(_JSON_IMAGE):
                        yield json.loads(line.removeprefix(_JSON_IMAGE).rstrip(",\n"))
            else:
                rows = csv.reader(file)
                next(rows)  # the names of the columns
                yield from (row[0] for row in rows)

    # --------------------------------------------------------------------------------- writing

    def _append(self, text: str, predictions: Sequence[Prediction]) -> None:
        """Write text in the place of what closes the file, and close it again.

        The progress changes last, so that what has been written in part counts for nothing.
        """
        data = text.encode(errors="surrogateescape")  # file names are bytes; see files.write_atomic
        after = self.progress.plus(data, predictions)
        files.write_at(self._descriptor, data + self._closing(after), self.progress.size_bytes)
        self.progress = after

    def _closing(self, progress: Progress) -> bytes:
        """Return what closes the file after its rows."""
        if not self._is_json:
            return b""
        return b"\n]\n" if progress.images else b"]\n"

    def _cut_off(self) -> None:
        """Remove what follows the rows that count, and close the file."""
        os.ftruncate(self._descriptor, self.progress.size_bytes)
        files.write_at(self._descriptor, self._closing(self.progress), self.progress.size_bytes)

    def _is_there(self) -> bool:
        """Return whether the file still has its name."""
        try:
            return os.path.samestat(self._out.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def _store(self) -> None:
        """Flush the file to the disk, and note how far it is."""
        if not self._is_there():
            raise GrigriError(f"{self._out}: it was removed or replaced while it was written")
        os.fsync(self._descriptor)
        note = {
            "format": _FORMAT,
            "made_by": self._made_by,
            "has_previous": self._has_previous,
            "progress": dataclasses.asdict(self.progress),
        }
        files.write_json(note_of(self._out), note)
        self._stored_s = time.monotonic()

    def _leave(self) -> None:
        """Leave whole rows, and a note if the disk has room for it; if there are none, nothing."""
        with contextlib.suppress(OSError, GrigriError):
            if self.progress.images:
                self._cut_off()
                self._store()
                return
            if self._descriptor >= 0:
                self._out.unlink(missing_ok=True)
                note_of(self._out).unlink(missing_ok=True)
            if self._has_previous:
                _previous_of(self._out).rename(self._out)

    def _close(self) -> None:
        """Close the file, and give up the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _lock(self) -> None:
        """Keep other processes from writing to the file.

        Raises:
            GrigriError: if another one does.
        """
        if not files.lock(self._descriptor):
            raise GrigriError(f"--out {self._out}: another predict is writing to it")

    def _unwritable(self, error: OSError) -> GrigriError:
        return GrigriError(f"{self._out}: cannot be written: {error.strerror or error}")
