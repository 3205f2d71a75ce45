"""The argument PATH... of predict and suggest: files, folders, globs, and lists of paths."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import GrigriError
from ..runtime import files

if TYPE_CHECKING:
    from ..data.layouts.walk import Found

PathsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="Image files, folders, globs; @FILE, a list with a path per line; - for a list on"
        " stdin.",
    ),
]


def found_images(words: Sequence[str]) -> "Found":
    """Return the images that the words of the command line name.

    ``@FILE`` stands for the paths in that file, and ``-`` for those on stdin. A file with such a
    name is reached by ``./@FILE`` and ``./-``.

    Raises:
        GrigriError: if a word names nothing, or a list is wrong.
    """
    from ..data import packed
    from ..data.images import find_images, paths_in_list
    from ..data.layouts.walk import Found

    images: dict[str, None] = {}
    skipped: dict[str, list[Path]] = {}
    for word in words:
        if has_list([word]):
            where = "stdin" if word == "-" else word[1:]
            images.update(dict.fromkeys(map(str, paths_in_list(_list(word), where))))
            continue
        found = find_images([word])
        images.update(dict.fromkeys(map(str, found.images)))
        for reason, paths in found.skipped.items():
            skipped.setdefault(reason, []).extend(paths)
    return Found(packed.paths(images), skipped)


def has_list(words: Sequence[str]) -> bool:
    """Return whether one of the words stands for a list of paths."""
    return any(word == "-" or word.startswith("@") for word in words)


def _list(word: str) -> bytes:
    """Return the bytes of a list."""
    if word == "-":
        if sys.stdin is None:
            raise GrigriError("-: there is no stdin to read a list of images from")
        return sys.stdin.buffer.read()
    try:
        return files.read_bytes(word[1:])
    except GrigriError as e:
        raise GrigriError(
            f"{word[1:] or word}: {e}; {word} means the list of images in that file, and ./{word}"
            " an image of this name"
        ) from e
