"""The table of corrected labels while it is written: a line per decision, on the disk at once."""

import csv
import io
import os
from datetime import UTC, datetime
from pathlib import Path

from ..data import corrections
from ..data.corrections import GIVEN, HEADER, VALUES
from ..errors import GrigriError
from ..runtime import files

_HEADER = (*HEADER, "time")


class Journal:
    """Decisions about labels, in a file that ``--corrections`` takes (see :mod:`corrections`).

    A line is added per decision, and is on the disk before :meth:`add` returns. Nothing is ever
    changed, so a kill or a power cut costs at most what was being written. What is undone gets
    another line. The file is made with the first decision; while it is open, no other process can
    open it so.

    Attributes:
        path: the file.
        values: by image and class, the last decision, of :data:`corrections.VALUES`.
    """

    def __init__(self, path: Path) -> None:
        """Open a file of corrections, or prepare to make it.

        Raises:
            GrigriError: if it is another kind of file, cannot be written, or is open elsewhere.
        """
        self.path = path
        self.values: dict[tuple[str, str], str] = {}
        self._fields: list[str] = list(_HEADER)
        self._descriptor: int | None = None
        if path.exists():
            self._open()
        elif not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise GrigriError(
                f"{path}: corrections cannot be written there; name another file by --corrections"
            )

    def add(self, *decisions: tuple[str, str, str]) -> None:
        """Write decisions: of image, class and value; they are on the disk when this returns.

        Raises:
            GrigriError: if they cannot be written; then nothing of them is in the file.
        """
        if not {value for _, _, value in decisions} <= set(VALUES):
            raise ValueError(decisions)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None
            size = os.fstat(self._descriptor).st_size
            try:
                lines = b"" if size else _line(_HEADER)
                for decision in decisions:
                    known = dict(zip(_HEADER, (*decision, now), strict=True))
                    lines += _line([known.get(field, "") for field in self._fields])
                files.write_at(self._descriptor, lines, size)
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, size)
                raise
        except OSError as e:
            raise GrigriError(f"{self.path}: {e.strerror or e}") from e
        self.values |= {(image, label): value for image, label, value in decisions}

    def value_of(self, image: str, label: str) -> str:
        """Return the last decision about a label; ``given`` without one."""
        return self.values.get((image, label), GIVEN)

    def close(self) -> None:
        """Let others open the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self.path, flags, 0o666)
        except OSError as e:
            raise GrigriError(f"{self.path}: {e.strerror or e}") from e
        if not files.lock(self._descriptor):
            self.close()
            raise GrigriError(f"{self.path}: another grigri-fast serve is writing it")
        if os.fstat(self._descriptor).st_size:
            self._mend_end()
            for one in corrections.read(self.path):
                self.values[one.image, one.label] = one.value
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                self._fields = next(csv.reader(file))

    def _mend_end(self) -> None:
        """End the last line, which an editor may have left open, or drop it if it is cut off."""
        assert self._descriptor is not None
        text = self.path.read_bytes()
        if text.endswith(b"\n"):
            return
        whole, _, rest = text.rpartition(b"\n")
        fields = next(csv.reader([whole.split(b"\n")[0].decode("utf-8-sig", "replace").strip()]))
        cells = next(csv.reader([rest.decode(errors="replace")]))
        if len(cells) == len(fields) and dict(zip(fields, cells, strict=True))["value"] in VALUES:
            files.write_at(self._descriptor, b"\n", len(text))
        else:
            os.ftruncate(self._descriptor, len(whole) + 1)


def _line(cells: list[str] | tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
