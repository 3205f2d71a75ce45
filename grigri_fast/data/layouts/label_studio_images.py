"""Where the images are that Label Studio's tasks name.

It names images by addresses of its own: ``/data/upload/1/0a1b2c3d-cat.jpg`` for an image that was
uploaded as ``cat.jpg``, ``/data/local-files/?d=pets/cat.jpg`` for one that lies on its server, and
``s3://`` or ``https://`` for others. Whoever exports the labels has the images somewhere else.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ...errors import GrigriError
from . import reading
from .labels import IMAGE_SUFFIXES, LabelOptions

_UPLOAD = "data/upload/"
_HASH = re.compile(r"^[0-9a-f]{8}-")
_MAX_DROPPED = 6  # folders at the beginning of a name that need not be there


@dataclass(frozen=True)
class Images:
    """The images of the tasks.

    Attributes:
        key: the key of the tasks' data that names the image.
        names: a name for each task (N).
        paths: the images (N); they need not exist.
    """

    key: str
    names: list[str]
    paths: list[Path]


def find(file: Path, tasks: list[tuple[str, dict[str, Any]]], options: LabelOptions) -> Images:
    """Return the images of tasks, which come with their places in the file.

    Raises:
        GrigriError: if it is not sure which key names the image, or a task has none.
    """
    key = _key(file, tasks, options.image_column)
    written = [_path_of(data.get(key), f"{where}: {key[:40]}") for where, data in tasks]
    uploads = [path.startswith(_UPLOAD) for path in written]
    short = [_HASH.sub("", Path(path).name) for path in written]
    names = [path.removeprefix(_UPLOAD) for path in written]
    if all(uploads) and len({*short}) == len(short):
        names = short
    here = file.parent
    folders = [here, here / "images", here / "upload", here / "media"]
    if options.images is not None:
        folders = [options.images]
    # The same way for all: without some folders at the beginning, or as it was before the upload.
    ways = [names, *([_dropped(p, n) for p in written] for n in range(_MAX_DROPPED)), short]
    folder, way = max(
        ((folder, way) for folder in folders for way in ways),
        key=lambda pair: sum(reading.exists(pair[0] / name) for name in pair[1][:100]),
    )
    return Images(key, names, [folder / name for name in way])


def _key(file: Path, tasks: list[tuple[str, dict[str, Any]]], wanted: str | None) -> str:
    keys = list(dict.fromkeys(key for _, data in tasks for key in data))
    if wanted is not None:
        if wanted not in keys:
            raise GrigriError(
                f"{file}: --image-column {wanted}: no such key; there are {reading.listed(keys)}"
            )
        return wanted
    found = [key for key in keys if any(_is_image(data.get(key)) for _, data in tasks)]
    if len(found) != 1:
        raise GrigriError(
            f"{file}: {reading.listed(found)} name images; --image-column says which to use"
            if found
            else f"{file}: none of {reading.listed(keys)} names an image; --image-column says which"
        )
    return found[0]


def _is_image(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    if value.startswith("data:image/") or "/local-files/?d=" in value:
        return True
    ending = value.partition("?")[0].rpartition(".")[2].lower()
    return f".{ending}" in IMAGE_SUFFIXES


def _path_of(value: Any, where: str) -> str:
    """Return the path in an address, relative."""
    if isinstance(value, str) and value.startswith("data:"):
        raise GrigriError(f"{where}: an image within the task; save it as a file and name that")
    path = value
    if isinstance(value, str):
        try:
            if "/local-files/?" in value:
                path = "".join(parse_qs(urlsplit(value).query).get("d", []))
            elif "://" in value:
                path = unquote(urlsplit(value).path)
        except ValueError as e:
            raise GrigriError(f"{where}: {value[:60]!r} is no address: {e}") from e
    return reading.image_name(path, where).lstrip("/") or "."


def _dropped(path: str, num: int) -> str:
    """Return a path without its first folders."""
    parts = path.split("/")
    return "/".join(parts[min(num, len(parts) - 1) :])
