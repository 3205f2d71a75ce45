"""Training, validation and test parts: those that the data come with, or made by stratification."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import files
from ..runtime.files import StrPath
from . import balance, name_lists, stratification
from .dataset import Dataset, load
from .layouts import HowLabels

PARTS = ("train", "val", "test")
DEFAULT_VAL = 0.2  # share of the images
_TURN_OFF = "turn it off by --split-column none"


@dataclass(frozen=True)
class Split:
    """Rows of a data set per part (``train``, ``val`` and perhaps ``test``), each ascending.

    Attributes:
        parts: the rows.
        notes: what the user should know about it, in sentences.
        asked: the share of the images that each part should have, if it was made here.
    """

    parts: dict[str, NDArray[np.intp]]
    notes: tuple[str, ...] = ()
    asked: Mapping[str, float] | None = None

    def limited(self, num_images: int, seed: int) -> "Split":
        """Return a split with about ``num_images`` images in all, drawn at random per part.

        Raises:
            GrigriError: if too few images are left to train on.
        """
        total = sum(map(len, self.parts.values()))
        if num_images >= total:
            return self
        rng = np.random.default_rng(seed)
        fewer = {}
        for name, rows in self.parts.items():
            count = max(1, round(len(rows) * num_images / total))
            fewer[name] = np.sort(rng.permutation(rows)[:count])
        _check(fewer, "raise --limit")
        return replace(self, parts=fewer)


@dataclass(frozen=True)
class SplitResult:
    """What :func:`split` returns; ``path`` is the file that was written, None if there is none."""

    dataset: Dataset
    split: Split
    path: Path | None


def split(
    data: StrPath,
    *,
    val: float | None = None,
    test: float | None = None,
    seed: int = 0,
    out: StrPath | None = None,
    images: StrPath | None = None,
    **how_labels: Unpack[HowLabels],
) -> SplitResult:
    """Split a data set by stratification: the command ``data split``.

    It uses the labels alone: the images need not be there. Data that come with a split keep it.

    Args:
        data: images and labels: a folder or a CSV.
        val: share of the images for validation, above 0; 0.2 by default.
        test: share of the images for the test part; 0, the default, makes none.
        seed: breaks ties.
        out: write the split to this file, which ``train --split`` reads.
        images: the folder that a CSV's names are relative to.
        how_labels: how the labels are to be read, as in :class:`HowLabels`.

    Raises:
        GrigriError: if a value is out of range or does not go with the data's own split, the labels
            cannot be read, a part would get no image, or the file cannot be written.
    """
    _require_shares(val, test)
    if not 0 <= seed < 2**32:
        raise GrigriError(f"--seed must be from 0 to {2**32 - 1}, not {seed}")
    dataset = load(data, images, **how_labels)
    parts = choose(dataset, val, test, seed=seed)
    path = None if out is None else Path(out)
    if path is not None:
        files.write_atomic(path, to_json(parts, dataset))
    return SplitResult(dataset, parts, path)


def choose(
    dataset: Dataset,
    val: float | None = None,
    test: float | None = None,
    file: StrPath | None = None,
    seed: int = 0,
) -> Split:
    """Return the split of a data set: that of a file, its own, or a new one.

    Args:
        dataset: the data set.
        val, test: shares of the images that were asked for, as in :func:`split`.
        file: a split file, or a folder of names, as in :func:`read`.
        seed: of a new split.

    Raises:
        GrigriError: if shares are asked for and the data come with a split, or as
            :func:`stratify` and :func:`read`.
    """
    if file is not None:
        found = _with_added(read(file, dataset, seed), dataset)
        own = _of_own(dataset)
        if own is None or all(np.array_equal(own.get(k, []), found.parts[k]) for k in found.parts):
            return found
        note = f"the data come with another split, which is not used, since --split names {file}"
        return replace(found, notes=(note, *found.notes))
    if dataset.parts is None:
        return stratify(dataset, DEFAULT_VAL if val is None else val, test or 0.0, seed)
    for flag, share in (("--val", val), ("--test", test)):
        if share is not None:
            raise GrigriError(
                f"{dataset.layout}: the data come with a split, so {flag} {share} does not go with"
                f" them; leave it out, or turn their split off by --split-column none"
            )
    return _given(dataset.parts, dataset, "the data's own split", _TURN_OFF, seed)


def stratify(dataset: Dataset, val: float, test: float = 0.0, seed: int = 0) -> Split:
    """Split a data set so that every part has the class frequencies of the whole.

    The promise: each part's share of the images is met within a percent of the images, or one image
    per class if that is more; and a class that k images have is in the first k of train, val and
    test. Where no split can have all of that, the note says what is missing. Images of a group stay
    in one part, so with groups the promise is about groups, and shares are met as well as they can.

    How it is done: see :mod:`stratification`. The result depends on names, labels, groups and seed
    alone, not on the order of the rows. ``val`` and ``test`` are shares as in :func:`split`. All
    that is about the data's own images: those that corrections add are in ``train``, so the other
    parts are what they are without them.

    Raises:
        GrigriError: if a part would get no image, or there are fewer groups than parts.
    """
    _require_shares(val, test)
    asked = {"train": 1 - val - test, "val": val} | ({"test": test} if test else {})
    own = dataset.only(np.arange(dataset.num_own)) if dataset.num_added else dataset
    part_of = stratification.stratify(own, list(asked.values()), seed)
    rows = {name: np.flatnonzero(part_of == part) for part, name in enumerate(asked)}
    _check(rows, "change --val or --test")
    notes = _remarks(Split(rows, asked=asked), own)
    rows["train"] = np.concatenate([rows["train"], np.arange(len(own), len(dataset))])
    return Split(rows, notes, asked)


def _require_shares(val: float | None, test: float | None) -> None:
    """Raise GrigriError for shares that are none, or leave nothing."""
    if val is not None and not 0 < val < 1:
        raise GrigriError(f"--val must be more than 0 and less than 1, not {val}")
    if test is not None and not 0 <= test < 1:
        raise GrigriError(f"--test must be at least 0 and less than 1, not {test}")
    if (DEFAULT_VAL if val is None else val) + (test or 0) >= 1:
        raise GrigriError("--val and --test together leave nothing to train on")


def folds(dataset: Dataset, num_folds: int, seed: int = 0) -> list[NDArray[np.intp]]:
    """Return the rows of stratified parts of about equal size; each image is in one of them.

    Raises:
        GrigriError: if a part would get no image.
    """
    dataset = replace(dataset, num_added=0)  # they are asked about as all others
    left = np.arange(len(dataset))
    parts = []
    for number in range(num_folds, 1, -1):
        if len(left) < 2 * number:
            raise GrigriError(f"{dataset.layout}: too few images for {num_folds} folds")
        rest = stratify(dataset.only(left), 1 / number, 0.0, seed).parts
        parts.append(left[rest["val"]])
        left = left[rest["train"]]
    return [*parts, left]


def nested_order(targets_NC: NDArray[np.float32], seed: int = 0) -> NDArray[np.intp]:
    """Return all rows in an order of which every beginning has the class frequencies of the whole.

    For subsets of growing size each of which holds the one before. An image stands for the rarest
    of its labels; the images of each class are spread evenly over the order, which of them comes
    first is random. So each beginning has of the rarest labels what it should have, but for one.
    """
    rng = np.random.default_rng(seed)
    num_images, num_classes = targets_NC.shape
    count_NC = np.where(targets_NC > 0, targets_NC.sum(0), np.inf)
    group_N = np.where(targets_NC.any(1), count_NC.argmin(1), num_classes)
    place_N = np.empty(num_images)
    for group in np.unique(group_N):
        rows = rng.permutation(np.flatnonzero(group_N == group))
        place_N[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place_N, kind="stable")


def _check(parts: dict[str, NDArray[np.intp]], advice: str) -> None:
    """Raise GrigriError if a part is too small to be used."""
    for name, rows in parts.items():
        if not len(rows):
            total = sum(map(len, parts.values()))
            raise GrigriError(f"the {name} part of {total} images is empty; {advice}")
    if len(parts["train"]) < 2:
        raise GrigriError(f"the train part has only one image, at least 2 are needed; {advice}")


def to_json(split: Split, dataset: Dataset) -> str:
    """Return the text of a split file: the image names of each part."""
    parts = {name: [dataset.names[i] for i in rows] for name, rows in split.parts.items()}
    return json.dumps({"format": "grigri-fast split 1", "parts": parts}, indent=1) + "\n"


def names(file: StrPath) -> dict[str, list[str]]:
    """Return the names of each part's images in a file that :func:`to_json` wrote.

    Raises:
        GrigriError: if the file is no split file.
    """
    try:
        content = json.loads(files.read_text(Path(file)))
        parts = content["parts"]
        if set(parts) - set(PARTS) or not {"train", "val"} <= set(parts):
            raise ValueError("the parts must be train, val and perhaps test")
        for part in parts.values():
            if not isinstance(part, list) or not all(isinstance(name, str) for name in part):
                raise ValueError("a part must be a list of image names")
        return parts
    except GrigriError as e:
        raise GrigriError(f"split file {file}: {e}") from e
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise GrigriError(f"split file {file}: not written by `data split --out`: {e}") from e


def read(file: StrPath, dataset: Dataset, seed: int = 0) -> Split:
    """Return the split in a file that :func:`to_json` wrote, or in a folder of lists of names.

    Images of the data set that it does not name are in no part; a note says how many. A folder
    without a list for validation gets one as in :func:`choose`. A photograph that corrections had
    added to ``train`` may be missing: the data are then read without them.

    Raises:
        GrigriError: if it is no split file, or names an image twice or one that the data set does
            not have.
    """
    if Path(file).is_dir():
        own = dataset.names[: dataset.num_own] if dataset.num_added else dataset.names
        part_of = name_lists.read(Path(file), own, dataset.layout) + [""] * dataset.num_added
        return _given(part_of, dataset, f"split folder {file}", "see train.txt", seed)
    parts = names(file)
    row_of = {name: i for i, name in enumerate(dataset.names)}
    part_of, missing = [""] * len(dataset), []
    for part, of_part in parts.items():
        for name in of_part:
            row = row_of.get(name)
            if row is None and part == "train" and Path(name).is_absolute():
                missing.append(name)
                continue
            if row is None:
                raise GrigriError(
                    f"split file {file}: {name} is in {part}, but not in {dataset.layout}"
                )
            if part_of[row]:
                raise GrigriError(f"split file {file}: {name} is in {part_of[row]} and {part}")
            part_of[row] = part
    rows = _rows(part_of, [part for part in PARTS if part in parts])
    _check(rows, f"see split file {file}")
    notes = _left_out(part_of, dataset, f"split file {file}")
    if missing:
        are = "1 photograph" if len(missing) == 1 else f"{len(missing):,} photographs"
        notes += (f"without {are} of split file {file}, added by corrections: {_some(missing)}",)
    found = Split(rows, notes)
    return replace(found, notes=(*found.notes, *_remarks(found, dataset)))


# ---------------------------------------------------------------------- parts that are given


def _with_added(split: Split, dataset: Dataset) -> Split:
    """Return a split with the photographs that corrections add in ``train``, too."""
    added = np.arange(dataset.num_own, len(dataset))
    train = np.union1d(split.parts["train"], added)
    return replace(split, parts={**split.parts, "train": train})


def _given(part_of: Sequence[str], dataset: Dataset, where: str, advice: str, seed: int) -> Split:
    """Return a split that the data or a folder give; what is missing for validation is taken.

    Args:
        part_of: the part of each image (N), "" for none.
        dataset: the data set.
        where: who gives the parts, for the messages.
        advice: what to do if they cannot be used.
        seed: of the stratification, if there is no validation part.

    Raises:
        GrigriError: if there is nothing to train on, or too little.
    """
    rows = _rows(part_of, [part for part in PARTS if part in part_of])
    counts = ", ".join(f"{len(of_part):,} {part}" for part, of_part in rows.items()) or "no image"
    if "train" not in rows:
        raise GrigriError(
            f"{dataset.layout}: {where} has no image to train on, only {counts}; {advice}"
        )
    is_own = part_of is dataset.parts  # which the data's notes say already
    notes = [] if is_own else [f"{where} is used: {counts}"]
    notes += _left_out(part_of, dataset, "that split")
    if "val" not in rows:
        train = rows["train"]
        made = stratify(dataset.only(train), DEFAULT_VAL, 0.0, seed)
        rows |= {part: train[of_part] for part, of_part in made.parts.items()}
        notes.append(
            f"it has no val part: {len(rows['val']):,} of the {len(train):,} images of train are"
            f" taken for it, by stratification"
        )
    rows = {part: rows[part] for part in PARTS if part in rows}
    _check(rows, advice)
    found = Split(rows)
    return replace(found, notes=(*notes, *_remarks(found, dataset)))


def _of_own(dataset: Dataset) -> dict[str, NDArray[np.intp]] | None:
    """Return the rows of the parts that the data come with."""
    return None if dataset.parts is None else _rows(dataset.parts, PARTS)


def _rows(part_of: Sequence[str], parts: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each part."""
    part_of_N = np.array(part_of, dtype=np.str_)
    return {part: np.flatnonzero(part_of_N == part) for part in parts}


def _left_out(part_of: Sequence[str], dataset: Dataset, where: str) -> tuple[str, ...]:
    """Return a note on the images that are in no part, if there are any."""
    rows = [row for row, part in enumerate(part_of[: dataset.num_own]) if not part]
    names = [dataset.names[row] for row in rows]
    if not names:
        return ()
    are = "1 image is" if len(names) == 1 else f"{len(names):,} images are"
    return (f"{are} in no part of {where} and used nowhere: {_some(names)}",)


def _some(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


# ----------------------------------------------------------------------- what a split lacks


@dataclass(frozen=True)
class Absence:
    """A class that some parts lack.

    Attributes:
        class_name: the class.
        num_images: how many images of all parts have it.
        parts: the parts that lack it.
        why: in a few words.
    """

    class_name: str
    num_images: int
    parts: tuple[str, ...]
    why: str


def absences(split: Split, dataset: Dataset) -> list[Absence]:
    """Return the classes that are not in every part, in the order of the classes."""
    count_PC = np.array([dataset.targets_NC[rows].sum(0) for rows in split.parts.values()])
    found = []
    for c in np.flatnonzero((count_PC == 0).any(0)).tolist():
        num_images = int(count_PC[:, c].sum())
        parts = tuple(p for p, count in zip(split.parts, count_PC[:, c], strict=True) if not count)
        images = f"{num_images} image" + "s" * (num_images != 1)
        why = "its images are needed for other classes" if split.asked else "the split is given"
        if num_images < len(split.parts):
            why = f"only {images}" if num_images else "no image has it"
        elif split.asked and dataset.groups is not None:
            rows = np.concatenate(list(split.parts.values()))
            num_groups = len(np.unique(dataset.groups[rows][dataset.targets_NC[rows, c] > 0]))
            if num_groups < len(split.parts):
                why = f"its {images} are in {num_groups} group" + "s" * (num_groups != 1)
        found.append(Absence(dataset.class_names[c], num_images, parts, why))
    return found


def absences_in_words(split: Split, dataset: Dataset) -> tuple[str, ...]:
    """Return a note on the classes of some images that are not in every part, if there are any."""
    found = [a for a in absences(split, dataset) if a.num_images]
    if not found:
        return ()
    are = "1 class is" if len(found) == 1 else f"{len(found):,} classes are"
    named = [f"{a.class_name} (not in {' and '.join(a.parts)}: {a.why})" for a in found]
    return (f"{are} not in every part: {_some(named)}",)


def _remarks(split: Split, dataset: Dataset) -> tuple[str, ...]:
    """Return what the user should know of a split: shares that are not met, and groups."""
    notes = []
    num_images = sum(map(len, split.parts.values()))
    far = max(1.0, balance.tolerance(num_images))
    for part, share in (split.asked or {}).items():
        found = len(split.parts[part])
        if part != "train" and abs(found - share * num_images) > far:
            why = "every class is in each part" if dataset.groups is None else "groups stay whole"
            got = f"{found / num_images:.1%} of {num_images:,} images"
            notes.append(f"{part} has {got} instead of {share:.1%}, so that {why}")
    return (*notes, *_on_groups(split, dataset))


def _on_groups(split: Split, dataset: Dataset) -> list[str]:
    """Return what the user should know of the groups: those that are torn, or too large."""
    if dataset.groups is None:
        return []
    in_part = {part: Counter(dataset.groups[rows].tolist()) for part, rows in split.parts.items()}
    num_parts = Counter(group for groups in in_part.values() for group in groups)
    torn = sum(count > 1 for count in num_parts.values())
    if torn:
        are = "1 group has" if torn == 1 else f"{torn:,} groups have"
        return [f"{are} images in several parts: a score on them flatters"]
    notes = []
    num_images = sum(map(len, split.parts.values()))
    for part, share in (split.asked or {}).items():
        group, size = in_part[part].most_common(1)[0]
        if size > share * num_images + max(1.0, balance.tolerance(num_images)):
            name = dataset.names[int(np.argmax(dataset.groups == group))]
            notes.append(
                f"the group of {name} has {size:,} images, more than the {share * num_images:,.0f}"
                f" that {part} should have"
            )
    return notes


def frequencies(split: Split, dataset: Dataset) -> dict[str, NDArray[np.float64]]:
    """Return each part's class frequencies (C,): the share of its images with the label."""
    return {
        name: dataset.targets_NC[rows].mean(0, dtype=np.float64)
        for name, rows in split.parts.items()
    }
