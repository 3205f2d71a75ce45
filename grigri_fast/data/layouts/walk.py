"""The images in a folder, and what else lies there, which is skipped and counted."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import packed
from .labels import IMAGE_SUFFIXES, OPTIONAL_SUFFIXES

# Folders that systems and network drives make beside photographs, lower case. Some hold small
# copies of the photographs, so that to search them would double the data. Those that begin with a
# dot (.ipynb_checkpoints, .Trash-1000, .AppleDouble) are hidden anyway.
SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "__pycache__", "$recycle.bin", "recycler", "system volume information"),
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"),
        *("lost+found", "network trash folder", "temporary items"),
    }
)
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})

HIDDEN = "hidden"
SYSTEM = "system"
LINKED = "linked twice"
NO_SUFFIX = "no suffix"


@dataclass(frozen=True)
class Found:
    """What :func:`images_below` has found in a folder.

    Attributes:
        images: files whose suffix is an image's, sorted.
        skipped: files and folders that were left out, by reason: ``HIDDEN``, ``SYSTEM``,
            ``LINKED`` (a link to a folder that was searched already), ``NO_SUFFIX``, or the suffix,
            like ".txt". A folder that is left out stands for all in it.
        folders: folders in the folder, neither hidden nor of the system, which were not searched;
            none if the search was recursive.
    """

    images: Sequence[Path] = ()
    skipped: dict[str, list[Path]] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)

    def in_words(self) -> str:
        """Return what was skipped, like "2 hidden (._a.jpg, ...), 3 .txt"; "" if nothing was."""
        return skipped_in_words(self.skipped)

    def _skip(self, reason: str, path: Path) -> None:
        self.skipped.setdefault(reason, []).append(path)


def images_below(folder: Path, recursive: bool) -> Found:
    """Return the images in a folder, and with ``recursive`` those in all folders below it.

    Hidden files and folders and those of the system are skipped (but not ``folder`` itself, which
    was asked for). Links to folders are followed; a folder that can be reached in several ways is
    searched once, by its own name if that is below ``folder``. Links to files and what is no
    regular file count by their suffix: whether they can be read is for the check to say.

    Raises:
        OSError: if a folder cannot be read.
    """
    found = Found()
    images: list[str] = []
    status = folder.stat()
    seen = {(status.st_dev, status.st_ino)}
    todo = [folder]
    links: list[Path] = []  # after the others, so that folders are found by their own names
    while todo or links:
        if not todo:
            link = links.pop(0)
            status = link.stat()
            if (status.st_dev, status.st_ino) in seen:
                found._skip(LINKED, link)
                continue
            seen.add((status.st_dev, status.st_ino))
            todo.append(link)
        with os.scandir(todo.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link in a circle, which the check refuses by name
                    is_folder = False
                reason = reason_to_skip(entry.name, is_folder)
                if reason:
                    found._skip(reason, Path(entry.path))
                elif not is_folder:
                    images.append(entry.path.removeprefix("./"))
                elif not recursive:
                    found.folders.append(Path(entry.path))
                elif entry.is_symlink():
                    links.append(Path(entry.path))
                else:
                    inode = entry.stat()
                    seen.add((inode.st_dev, inode.st_ino))
                    todo.append(Path(entry.path))
    images.sort(key=lambda path: path.replace("/", "\0"))  # as paths are: folder by folder
    for paths in found.skipped.values():
        paths.sort()
    return replace(found, images=packed.paths(images))


def reason_to_skip(name: str, is_folder: bool) -> str:
    """Return why a file or folder is left out where images are searched for, "" if it is not."""
    name = name.lower()
    if name.startswith("."):  # also ._a.jpg, in which macOS keeps what other disks cannot
        return HIDDEN
    if name in (SYSTEM_FOLDERS if is_folder else SYSTEM_FILES):
        return SYSTEM
    suffix = os.path.splitext(name)[1].rstrip(".")  # noqa: PTH122
    if is_folder or suffix in IMAGE_SUFFIXES:
        return ""
    return suffix or NO_SUFFIX


def skipped_in_words(skipped: dict[str, list[Path]]) -> str:
    """Return what was skipped, like "2 hidden (._a.jpg, ...), 3 .txt"; "" if nothing was."""
    words = []
    for reason in sorted(skipped, key=lambda r: (r not in (HIDDEN, SYSTEM, LINKED), r)):
        names = Counter(path.name for path in skipped[reason])
        first = f"{next(iter(names))}{', ...' if len(names) > 1 else ''}"
        install = OPTIONAL_SUFFIXES.get(reason)
        more = install or ("" if reason.startswith(".") else first)
        words.append(f"{len(skipped[reason]):,} {reason}" + (f" ({more})" if more else ""))
    return ", ".join(words)
