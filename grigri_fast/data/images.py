"""Image files without labels: which ones the words of a command line name, or a list of paths."""

import codecs
import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import GrigriError
from . import packed
from .layouts import IMAGE_SUFFIXES
from .layouts.walk import SYSTEM, SYSTEM_FOLDERS, Found, images_below


def find_images(patterns: Iterable[str]) -> Found:
    """Return the image files that files, folders (searched to the bottom) and globs name.

    Each file once, in the order of the patterns; what a folder holds is sorted. A file that is
    named itself is taken whatever its name.

    Raises:
        GrigriError: for a pattern that names nothing, and a folder without images.
    """
    images: dict[str, None] = {}  # as texts: there may be millions
    skipped: dict[str, list[Path]] = {}
    for pattern in patterns:
        path = Path(pattern)
        here = Found()
        if path.is_dir():
            try:
                here = images_below(path, recursive=True)
            except OSError as e:
                raise GrigriError(f"{e.filename or path}: {e.strerror or e}") from e
        elif path.exists() or path.is_symlink():
            here = Found([path])
        elif glob.has_magic(pattern):
            matches = []
            for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207
                match = Path(name)
                if match.is_file() and _in_system(match):
                    here.skipped.setdefault(SYSTEM, []).append(match)
                elif match.is_file():
                    matches.append(match)
            here = Found(matches, here.skipped)
        else:
            raise GrigriError(f"{pattern}: no such file or folder")
        if not here.images:
            words = here.in_words()
            raise GrigriError(
                f"{pattern}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
                + (f"; it has {words}" if words else "")
            )
        images.update(dict.fromkeys(map(str, here.images)))
        for reason, paths in here.skipped.items():
            skipped.setdefault(reason, []).extend(paths)
    return Found(packed.paths(images), skipped)


def paths_in_list(content: bytes, where: str) -> Sequence[Path]:
    """Return the paths in a list: one a line, or separated by NUL as ``find -print0`` writes them.

    Blank lines are skipped. A path may name a file that does not exist: that is found out when it
    is read.

    Args:
        content: the list, in the encoding of file names.
        where: the list's name, for messages.

    Raises:
        GrigriError: for a list without a path, and for a folder in it.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    is_in_lines = b"\0" not in content
    paths = []
    for number, name in enumerate(content.split(b"\n" if is_in_lines else b"\0"), start=1):
        name = name.removesuffix(b"\r") if is_in_lines else name
        if not name.strip():
            continue
        path = Path(os.fsdecode(name))
        if path.is_dir():
            kind = "line" if is_in_lines else "path"
            raise GrigriError(
                f"{where} {kind} {number}: {path} is a folder; name it as PATH, or list files alone"
                " (find -type f)"
            )
        paths.append(str(path))
    if not paths:
        raise GrigriError(f"{where}: an empty list; expected the path of an image on each line")
    return packed.paths(dict.fromkeys(paths))


def _in_system(path: Path) -> bool:
    return any(part.lower() in SYSTEM_FOLDERS for part in path.parts[:-1])
