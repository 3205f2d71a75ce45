"""Where the images are that a label file names."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import GrigriError
from .reading import MAX_NAME, exists, looks_like_image
from .walk import images_below, reason_to_skip

_FIRST = 100  # names by which a folder is recognised
_MOST_FOLDERS = 1000  # in which images without a row are looked for


@dataclass(frozen=True)
class Located:
    """Images of a label file.

    Attributes:
        names: the images' names (N); as they are written, with "/" between folders.
        paths: their paths (N) as texts, of which there may be very many; they need not exist.
        notes: what the user should know of it, a sentence each.
    """

    names: list[str]
    paths: list[str]
    notes: list[str]


def locate(
    file: Path, written: Sequence[str], where: Callable[[int], str], images: Path | None
) -> Located:
    """Return the paths of the images that a label file names.

    They are relative to ``images`` or, without it, to the folder of the file, to ``images/`` in it,
    or to the one folder in it that has them. Names without an image's suffix are looked up among
    the files.

    Args:
        file: the label file.
        written: the names (N).
        where: returns the place of a name by its row, for messages.
        images: the folder that the names are relative to, if it is given.

    Raises:
        GrigriError: for a name that is empty or an address, or that fits several files.
        OSError: if a folder cannot be read.
    """
    names, notes = [], []
    for row, name in enumerate(written):
        if not name:
            raise GrigriError(f"{where(row)}: no image name")
        if any(c in name for c in "\n\r") or len(name) > MAX_NAME:
            raise GrigriError(f"{where(row)}: {name[:60]!r} is no file name")
        names.append(name)
    if all("://" in name for name in names):  # a single one is a file that cannot be used
        raise GrigriError(f"{where(0)}: {names[0][:60]} is an address; name files on this machine")
    folder = images or _folder_of(file.parent, names[:_FIRST])
    if not _has_any(folder, names[:_FIRST]) and any("\\" in name for name in names):
        names = [name.replace("\\", "/") for name in names]
        folder = images or _folder_of(file.parent, names[:_FIRST])
    if not any(looks_like_image(name) for name in names[:_FIRST]):
        found = _with_suffix(folder, names, where)
        if found is not None:
            suffixes = sorted({Path(name).suffix for name in set(found) - set(names)})
            notes.append(f"names are without suffix; files are {', '.join(suffixes)}")
            names = found
    # a.jpg and ./a.jpg are one image
    before = "" if folder == Path() else str(folder)
    paths = [os.path.join(before, os.path.normpath(name)) for name in names]  # noqa: PTH118
    unnamed = _unnamed(paths)
    if unnamed:
        more = ", ..." if len(unnamed) > 1 else ""
        notes.append(
            f"left out: {len(unnamed):,} images that it does not name ({unnamed[0]}{more})"
        )
    return Located(names, paths, notes)


def _unnamed(paths: list[str]) -> list[str]:
    """Return the images beside those that are named."""
    named = set(paths)
    folders = sorted(map(Path, {os.path.dirname(path) for path in paths}))  # noqa: PTH120
    beside = (
        p
        for f in folders[:_MOST_FOLDERS]
        if exists(f) and f.is_dir()
        for p in images_below(f, recursive=False).images
    )
    return [path.name for path in beside if str(path) not in named]


def _folder_of(folder: Path, names: list[str]) -> Path:
    """Return the folder in which the images are, or ``folder`` if there is none."""
    if _has_any(folder, names) or not folder.is_dir():
        return folder
    if _has_any(folder / "images", names):
        return folder / "images"
    with os.scandir(folder) as entries:
        inner = [Path(e.path) for e in entries if e.is_dir() and not reason_to_skip(e.name, True)]
    having = [path for path in sorted(inner) if _has_any(path, names)]
    if len(having) > 1:
        raise GrigriError(
            f"{folder}: the images are in {having[0].name} and in {having[1].name}; --images says"
            " which"
        )
    return having[0] if having else folder


def _has_any(folder: Path, names: list[str]) -> bool:
    if any(exists(folder / name) for name in names):
        return True
    if any(looks_like_image(name) for name in names) or not folder.is_dir():
        return False
    stems = {path.stem for path in images_below(folder, recursive=False).images}
    return any(name in stems for name in names)


def _with_suffix(folder: Path, names: list[str], where: Callable[[int], str]) -> list[str] | None:
    """Return the names of the files that have these names before their suffix; None: no files."""
    if not folder.is_dir() or any(exists(folder / name) for name in names[:_FIRST]):
        return None
    by_stem: dict[str, list[str]] = {}
    for parent in {os.path.dirname(name) for name in names}:  # noqa: PTH120
        if exists(folder / parent) and (folder / parent).is_dir():
            for path in images_below(folder / parent, recursive=False).images:
                by_stem.setdefault(os.path.join(parent, path.stem), []).append(  # noqa: PTH118
                    os.path.join(parent, path.name)  # noqa: PTH118
                )
    if not any(name in by_stem for name in names):
        return None
    found = []
    for row, name in enumerate(names):
        files = by_stem.get(name, [name])
        if len(files) > 1:
            raise GrigriError(f"{where(row)}: {name} can be {files[0]} or {files[1]}")
        found.append(files[0])
    return found
