"""The files of Hugging Face's ``datasets``: which there are, their rows, and the images in them."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from ...runtime import files
from . import reading

LISTS = ("Sequence", "List", "LargeList")  # features that are lists of another
_SHARD = re.compile(
    r"(?:.*-)?(?P<split>[\w.]+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?:-[0-9a-f]+)?"
    r"\.(?:parquet|arrow)"
)
_CONVERTED = re.compile(r"(?P<number>\d{4})\.parquet")  # train/0000.parquet, by the hub
_SAVED = ("state.json", "dataset_info.json")
_ROWS_AT_ONCE = 256
_CACHE = "hugging-face-1"  # the number changes with how images are named and written
_NAMES = "names.json"
# What the first bytes say of the kind of an image.
_SUFFIX_OF = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}

Images = dict[str, list[tuple[str, Path]]]  # by split: name and path of each row's image


@dataclass(frozen=True)
class Split:
    """A split of a data set: its name ("" if there are no splits) and its files."""

    name: str
    shards: tuple[Path, ...]

    def __str__(self) -> str:
        folder = self.shards[0].parent
        return f"{folder / self.name}" if self.name else str(folder)


# --------------------------------------------------------------------------- which files there are


def are_here(data: Path) -> bool:
    """Return whether ``data`` is a file of such a data set, or a folder with some."""
    if data.is_file():
        return bool(_SHARD.fullmatch(data.name))
    if (data / "dataset_dict.json").is_file() or all((data / name).is_file() for name in _SAVED):
        return True
    return any(_shards(folder) for folder in _places(data))


def find(data: Path) -> list[Split]:
    """Return the splits of a data set, train first; none if there is no such data set.

    Raises:
        GrigriError: if a file is missing, or if there are several data sets.
    """
    if data.is_file():
        match = _SHARD.fullmatch(data.name)
        return [Split("" if match is None else _name(match), (data,))]
    if (data / "dataset_dict.json").is_file():
        top = reading.read_json(data / "dataset_dict.json")
        names = top.get("splits") if isinstance(top, dict) else None
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise GrigriError(f"{data / 'dataset_dict.json'}: no list of splits")
        return _sorted([_saved(data / reading.image_name(n, str(data)), n) for n in names])
    if (data / "state.json").is_file():
        return [_saved(data, "")]
    found = [folder for folder in _places(data) if _shards(folder)]
    if len(found) > 1:
        names = [folder.name for folder in found]
        raise GrigriError(f"{data}: found {reading.listed(names)}; name one of them as DATA")
    return _of_shards(found[0]) if found else []


def _places(data: Path) -> list[Path]:
    """Return the folders in which the files may be: the data's own, else those in it."""
    for level in ([data], [data / "data"], reading.folders_in(data)):
        found = [folder for folder in level if _shards(folder)]
        if found:
            return found
    return []


def _shards(folder: Path) -> list[tuple[str, int, int, Path]]:
    """Return split, number, total and path of the files in a folder; total 0: unknown."""
    found = []
    for path in reading.visible(folder, ".parquet", ".arrow"):
        match = _SHARD.fullmatch(path.name)
        if match is not None:
            found.append((_name(match), int(match["number"]), int(match["total"]), path))
    for split in reading.folders_in(folder, at_most=20) if not found else []:
        if reading.part_of(split.name):
            for path in reading.visible(split, ".parquet"):
                match = _CONVERTED.fullmatch(path.name)
                if match is not None:
                    found.append((split.name, int(match["number"]), 0, path))
    return found


def _name(match: re.Match[str]) -> str:
    return "" if match["split"] == "data" else match["split"]


def _of_shards(folder: Path) -> list[Split]:
    shards: dict[str, list[tuple[int, int, Path]]] = {}
    for split, number, total, path in sorted(_shards(folder)):
        shards.setdefault(split, []).append((number, total, path))
    for split, found in shards.items():
        totals = {total for _, total, _ in found}
        num = max(totals) or max(number for number, _, _ in found) + 1
        there = [number for number, _, _ in found]
        if len(totals) > 1 or there != list(range(num)):
            lost = next((n for n in range(num) if there.count(n) != 1), num)
            raise GrigriError(
                f"{folder}: of the {num} files of {split or 'the data'}, number {lost} is missing "
                f"or there twice"
            )
    return _sorted([Split(s, tuple(path for _, _, path in found)) for s, found in shards.items()])


def _saved(folder: Path, name: str) -> Split:
    """Return what ``save_to_disk`` has written into a folder."""
    state = reading.read_json(folder / "state.json")
    listed = state.get("_data_files") if isinstance(state, dict) else None
    names = [f.get("filename") if isinstance(f, dict) else None for f in listed or []]
    if not names:
        raise GrigriError(f"{folder / 'state.json'}: names no files")
    shards = tuple(folder / reading.image_name(n, f"{folder / 'state.json'}") for n in names)
    lost = next((shard for shard in shards if not reading.exists(shard)), None)
    if lost is not None:
        raise GrigriError(f"{lost}: no such file, but {folder / 'state.json'} names it")
    if state.get("_indices_data_files"):
        raise GrigriError(f"{folder}: rows chosen by indices; flatten_indices() before saving")
    return Split(name, shards)


def _sorted(splits: list[Split]) -> list[Split]:
    order = ("train", "val", "test", "")
    return sorted(splits, key=lambda split: (order.index(reading.part_of(split.name)), split.name))


# ------------------------------------------------------------------------------- what is in them


def features(split: Split) -> dict[str, Any]:
    """Return the features of a split, as ``datasets`` writes them, by column.

    Raises:
        GrigriError: if there are none, or the file is damaged.
    """
    schema = _Shard(split.shards[0]).schema
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    info = split.shards[0].parent / "dataset_info.json"
    try:
        found = json.loads(text).get("info", {}).get("features")
        if not found and info.is_file():
            found = reading.read_json(info).get("features")
    except (ValueError, AttributeError, RecursionError) as e:
        raise GrigriError(f"{split.shards[0]}: damaged, its features are not readable") from e
    if not found:
        found = {field.name: _feature(field.type) for field in schema}
    if not isinstance(found, dict) or not {*found} <= {*schema.names}:
        raise GrigriError(f"{split.shards[0]}: damaged, its features do not fit its columns")
    return found


def _feature(kind: Any) -> Any:
    """Return the feature of an Arrow type, for files of other programs."""
    types = _pyarrow().types
    if types.is_list(kind) or types.is_large_list(kind):
        return [_feature(kind.value_type)]
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        if "bytes" in names:
            return {"_type": "Image"}
        return {name: _feature(kind.field(name).type) for name in names}
    return {"_type": "Value", "dtype": str(kind)}


def rows(split: Split, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split, with some columns.

    Raises:
        GrigriError: if a file is damaged, or pyarrow is missing.
    """
    for path in split.shards:
        yield from _Shard(path).rows(list(columns))


class _Shard:
    """One file, Arrow or Parquet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        pyarrow = _pyarrow()
        self._is_arrow = path.suffix.lower() == ".arrow"
        try:
            files.stamp(path)
            if self._is_arrow:
                with pyarrow.memory_map(str(path)) as file:
                    self.schema = pyarrow.ipc.open_stream(file).schema
            else:
                self.schema = pyarrow.parquet.read_schema(path)
        except Exception as e:  # a damaged file can make every kind
            raise GrigriError(f"{path}: not readable: {str(e)[:120]}") from e

    def rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        batches = self._batches(columns)
        while True:
            try:
                batch = next(batches, None)
                values = [] if batch is None else batch.to_pylist()
            except Exception as e:
                raise GrigriError(f"{self.path}: damaged: {str(e)[:120]}") from e
            if batch is None:
                return
            yield from values

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        pyarrow = _pyarrow()
        if not self._is_arrow:
            with pyarrow.parquet.ParquetFile(self.path, page_checksum_verification=True) as file:
                yield from file.iter_batches(_ROWS_AT_ONCE, columns=columns)
            return
        with pyarrow.memory_map(str(self.path)) as file:
            for batch in pyarrow.ipc.open_stream(file):
                batch.validate(full=True)
                for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    yield batch.slice(start, _ROWS_AT_ONCE).select(columns)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
        import pyarrow.types
    except ImportError as e:
        raise GrigriError(
            "Hugging Face's data sets need pyarrow: pip install 'grigri-fast[tables]'"
        ) from e
    return pyarrow


# ------------------------------------------------------------------------------------ images


def images(data: Path, splits: Sequence[Split], column: str) -> Images:
    """Return the images of all splits; those within the files are written into the cache, once.

    Raises:
        GrigriError: if a row has no image.
        OSError: if the cache cannot be written.
    """
    folder = files.cache_folder() / _CACHE / _key(splits, column)
    try:
        kept = json.loads(files.read_text(folder / _NAMES))
        return {
            split: [(name, folder / path) for name, path in named] for split, named in kept.items()
        }
    except (GrigriError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
    with files.unfinished_folder(folder) as unfinished:
        named = {
            split.name: _write(data, split, column, unfinished, f"{number}")
            for number, split in enumerate(splits)
        }
        (unfinished / _NAMES).write_text(json.dumps(named), encoding="utf-8")
    if not any(folder.glob("*/*")):  # no image was within the files
        shutil.rmtree(folder)
    return {
        split: [(name, folder / path) for name, path in found] for split, found in named.items()
    }


def cached(paths: Sequence[Path]) -> Path | None:
    """Return the folder of the cache in which the first of the images is, None if it is not."""
    folder = files.cache_folder() / _CACHE
    is_cached = bool(paths) and paths[0].is_relative_to(folder)
    return folder / paths[0].relative_to(folder).parts[0] if is_cached else None


def _key(splits: Sequence[Split], column: str) -> str:
    """Return what names the images in the cache: it changes with the files."""
    shards = [
        [split.name, str(shard.resolve()), *files.stamp(shard)]
        for split in splits
        for shard in split.shards
    ]
    return hashlib.sha256(json.dumps([column, shards]).encode()).hexdigest()[:16]


def _write(
    data: Path, split: Split, column: str, folder: Path, below: str
) -> list[tuple[str, str]]:
    """Write a split's images; return the name of each, and its path, relative to the folder."""
    base = (data if data.is_dir() else data.parent).absolute()
    (folder / below).mkdir()
    names: list[str | None] = []
    paths = []
    for number, row in enumerate(rows(split, [column])):
        where = f"{split} row {number}, column {column}"
        value = row[column]
        value = value if isinstance(value, dict) else {"path": value}
        content, written = value.get("bytes"), value.get("path")
        name = None if written is None else reading.image_name(written, where)
        names.append(None if name is None else Path(name).name)
        if isinstance(content, bytes):
            start = next((s for s in _SUFFIX_OF if content.startswith(s)), b"\xff\xd8")
            path = f"{below}/{number:08}{_SUFFIX_OF[start]}"
            (folder / path).write_bytes(content)
        elif name is not None:
            path = str(base / name)
            names[-1] = Path(name).name if Path(name).is_absolute() else name
        else:
            raise GrigriError(f"{where}: no image")
        paths.append(path)
    given = [name for name in names if name is not None]
    if len({*given}) < len(names):
        given = [f"{number:08}{Path(path).suffix}" for number, path in enumerate(paths)]
    return list(zip(given, paths, strict=True))
