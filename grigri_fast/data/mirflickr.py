"""Public data: MIRFLICKR-25k, downloaded and laid out as ``train`` reads it.

25,000 photographs from Flickr with Creative Commons licences, and their annotations (Huiskes and
Lew, "The MIR Flickr Retrieval Evaluation", 2008): https://press.liacs.nl/mirflickr
"""

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock
from PIL import Image, ImageOps

from ..errors import GrigriError, Interrupted
from ..runtime import files
from ..runtime.files import StrPath
from ..runtime.threads import file_pool
from . import download

SITE = "https://press.liacs.nl/mirflickr/mirflickr25k.v3b"
IMAGES, ANNOTATIONS = "mirflickr25k.zip", "mirflickr25k_annotations_v080.zip"
# Published beside the images' archive. Of the annotations no checksum is published.
MD5 = {IMAGES: "a23d0a8564ee84cda5622a6c2f947785"}
CLASSES = (
    *("baby", "bird", "car", "clouds", "dog", "female", "flower"),
    *("male", "night", "people", "portrait", "river", "sea", "tree"),
)
PROVENANCE = "provenance.json"
_ARCHIVES = (IMAGES, ANNOTATIONS)

_QUALITY = 95  # of JPEG
_MAX_TEXT_BYTES = 2**20  # of an annotation file; 25,000 numbers are 150 kB
_MAX_IMAGE_BYTES = 64 * 2**20  # of an image file; Flickr's of 500 px are below 1 MB
_MAX_IMAGE_PIXELS = 50_000_000
_MAX_SKIPPED = 0.05  # share of the images that may be damaged
_BLOCK_BYTES = 4096  # of a file system
# To estimate what will be written, before the archive is there.
_NUM_IMAGES = 25_000


class FetchCallback:
    """What :func:`fetch` calls while it works. These methods do nothing; override some."""

    def log(self, text: str) -> None:
        """Take a line worth reading."""

    def on_download(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """So many bytes of an archive have arrived."""

    def on_convert(self, done: int, total: int) -> None:
        """So many of all images are written."""


@dataclass(frozen=True)
class Archive:
    """An archive that is here: its name, the file, where it comes from, and its checksums."""

    name: str
    path: Path
    origin: download.Origin
    sha256: str
    md5: str


@dataclass(frozen=True)
class Fetched:
    """What has been made.

    Attributes:
        folder: ``images/``, ``annotations/`` and ``provenance.json``.
        num_images: how many there are.
        num_labels: images with the label, by class.
        skipped: reason by name, of images that could not be used.
    """

    folder: Path
    num_images: int
    num_labels: dict[str, int]
    skipped: dict[str, str] = field(default_factory=dict)


def fetch(
    folder: StrPath,
    *,
    size: int = 128,
    sources: Sequence[str] = (),
    sha256: Mapping[str, str] | None = None,
    keep: bool = False,
    threads: int | None = None,
    callback: FetchCallback | None = None,
) -> Fetched:
    """Make ``folder``, whole or not at all, from the two archives: the command ``data fetch``.

    Args:
        folder: to be made: ``images/im<N>.jpg`` and ``annotations/<class>.txt`` (a line N means
            image N has the label), from the "relevant" annotations of the 14 classes.
        size: side of the images in pixels, cut to a square around the centre; 0: as they are.
        sources: folders or addresses that hold both archives, or archives themselves; what they do
            not hold comes from Leiden.
        sha256: the checksum that an archive must have, in hex, by the archive's name.
        keep: keep the archives that were downloaded, in ``<folder>.downloads``.
        threads: CPU threads, by default all that this process may use.
        callback: gets progress and messages.

    Raises:
        GrigriError: if something is missing, wrong, or too large. What was downloaded is kept, but
            for an archive that is wrong.
        Interrupted: likewise, when a signal has ended it.
    """
    folder, callback = Path(folder), callback or FetchCallback()
    if size < 0:
        raise GrigriError(f"--size must be at least 0, not {size}")
    if folder.exists() or folder.is_symlink():
        raise GrigriError(f"{folder} is there already; choose another folder")
    places = places_of(sources)
    downloads = folder.with_name(f"{folder.name}.downloads")
    archives: dict[str, Archive] = {}
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if any(isinstance(place, str) for place in places.values()):
                stack.enter_context(_locked(downloads))
            # The small one first: what is wrong with it is known before the large one is asked for.
            for name in (ANNOTATIONS, IMAGES):
                expected = (sha256 or {}).get(name, "").lower()
                path = downloads / name
                archives[name] = _get(name, places[name], path, size, expected, callback)
            num_threads = threads or len(os.sched_getaffinity(0))
            fetched = _unpack(archives, folder, size, num_threads, callback)
            if not keep:
                for name in archives:
                    download.remove(downloads / name)
    except OSError as e:
        raise GrigriError(f"{e.filename or folder}: {e.strerror or e}") from e
    return fetched


# ------------------------------------------------------------------------------- the archives


def places_of(sources: Sequence[str]) -> dict[str, Path | str]:
    """Return where each archive is: a file, or an address.

    Raises:
        GrigriError: if a source is nothing of the kind, or two hold the same archive.
    """
    places: dict[str, Path | str] = {}
    for source in sources:
        for name, place in _archives_in(source).items():
            if name in places:
                raise GrigriError(f"--from {source}: {name} is named by another --from, too")
            places[name] = place
    return {name: places.get(name, f"{SITE}/{name}") for name in _ARCHIVES}


def _archives_in(source: str) -> dict[str, Path | str]:
    """Return which archives a source holds, and where."""
    url = urlsplit(source)
    if url.scheme in ("http", "https"):
        name = url.path.rpartition("/")[2]
        if name in _ARCHIVES:
            return {name: source}
        if not name.endswith(".zip"):
            return {name: f"{source.rstrip('/')}/{name}" for name in _ARCHIVES}
    elif "://" in source:
        raise GrigriError(f"--from {source}: only http, https and files are read")
    else:
        path = Path(source)
        if path.is_dir():
            missing = [name for name in _ARCHIVES if not (path / name).is_file()]
            if missing:
                raise GrigriError(f"--from {source}: there is no {' and no '.join(missing)} in it")
            return {name: path / name for name in _ARCHIVES}
        if not path.is_file():
            raise GrigriError(f"--from {source}: no such file or folder")
        if path.name in _ARCHIVES:
            return {path.name: path}
    raise GrigriError(f"--from {source}: the archives are {IMAGES} and {ANNOTATIONS}")


def _get(
    name: str, place: Path | str, path: Path, size_px: int, sha256: str, callback: FetchCallback
) -> Archive:
    """Return an archive whose checksum is right; one that is downloaded and wrong is removed.

    ``path``: the file to download to. ``sha256``: what must be right, "" for the published MD5.
    """
    if isinstance(place, str):
        origin = _download(place, path, size_px, callback)
    else:
        path, origin = place, download.Origin(place.name, num_bytes=place.stat().st_size)
    archive = Archive(name, path, origin, *_checksums(path))
    try:
        if sha256 and archive.sha256 != sha256:
            raise GrigriError(f"its SHA-256 is {archive.sha256}, not {sha256} as --sha256 says")
        if not sha256 and archive.md5 != MD5.get(name, archive.md5):
            wrong = f"its MD5 is {archive.md5}, not {MD5[name]} as published"
            if str(place).startswith(SITE):
                raise GrigriError(wrong)
            callback.log(f"{name}: {wrong}; --from names it, so it is used all the same")
        zipfile.ZipFile(path).close()
    except (GrigriError, zipfile.BadZipFile, ValueError, NotImplementedError) as e:
        wrong = "" if isinstance(e, GrigriError) else "not a zip archive that can be read: "
        if not isinstance(place, str):
            raise GrigriError(f"{path}: {wrong}{e}") from e
        download.remove(path)
        raise GrigriError(f"{place}: {wrong}{e}; the download has been removed") from e
    return archive


def _download(url: str, path: Path, size_px: int, callback: FetchCallback) -> download.Origin:
    def require(to_come: int, in_all: int) -> None:
        made = 0
        if path.name == IMAGES:  # JPEGs of quality 95 are about a byte per pixel
            made = min(in_all, _NUM_IMAGES * (size_px**2 + _BLOCK_BYTES)) if size_px else in_all
        what = f"the rest of {path.name} and what is made of it"
        download.require_room(path.parent, to_come + made, what)

    try:
        return download.download(
            url,
            path,
            require=require,
            on_progress=lambda done, total: callback.on_download(path.name, done, total),
            log=callback.log,
        )
    except (KeyboardInterrupt, Interrupted) as e:
        advice = "the same command goes on with the download"
        raise Interrupted(getattr(e, "signum", signal.SIGINT), advice) from e


def _checksums(path: Path) -> tuple[str, str]:
    """Return a file's SHA-256 and MD5, in one reading."""
    sums = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            for checksum in sums:
                checksum.update(piece)
    return sums[0].hexdigest(), sums[1].hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only process that downloads into a folder; make it, and remove it if it is empty."""
    folder.mkdir(exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise GrigriError(f"{folder}: another process is downloading into it") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        lock.release()


# -------------------------------------------------------------------------------- what is made


def _unpack(
    archives: Mapping[str, Archive],
    folder: Path,
    size_px: int,
    threads: int,
    callback: FetchCallback,
) -> Fetched:
    """Write the data set, whole or not at all."""
    path = archives[IMAGES].path
    numbers = _read_labels(archives[ANNOTATIONS].path)
    with zipfile.ZipFile(path) as archive:
        members = _members(archive, path, r"im(\d{1,9})\.jpg")
        if not members:
            raise GrigriError(f"{path}: there is no im1.jpg, im2.jpg, ... in it")
        num_bytes = sum(
            _BLOCK_BYTES + min(m.file_size, size_px**2 if size_px else m.file_size)
            for m in members.values()
        )
        download.require_room(folder.absolute().parent, num_bytes, f"{len(members):,} images")
        with files.unfinished_folder(folder) as unfinished:
            (unfinished / "images").mkdir()
            skipped = _convert(archive, members, unfinished / "images", size_px, threads, callback)
            for number in sorted(set().union(*numbers.values()) - members.keys(), key=int):
                skipped[f"im{number}.jpg"] = "labelled, but not in the archive"
            good = {n for n in members if f"im{n}.jpg" not in skipped}
            num_all = len(good) + len(skipped)
            if len(skipped) > _MAX_SKIPPED * num_all:
                name, reason = next(iter(skipped.items()))
                raise GrigriError(
                    f"{path}: {len(skipped):,} of {num_all:,} images cannot be used,"
                    f" such as {name}: {reason}"
                )
            (unfinished / "annotations").mkdir()
            num_labels = {}
            for name in CLASSES:
                labelled = sorted(numbers[name] & good, key=int)
                num_labels[name] = len(labelled)
                text = "".join(f"{number}\n" for number in labelled)
                (unfinished / "annotations" / f"{name}.txt").write_text(text)
            fetched = Fetched(folder, len(good), num_labels, skipped)
            _write_provenance(unfinished, archives, fetched, size_px)
    return fetched


def _members(archive: zipfile.ZipFile, path: Path, pattern: str) -> dict[str, zipfile.ZipInfo]:
    """Return the members whose file name fits, by the group in the pattern.

    Members are only ever read, and what is written gets a name of our own, so nothing in an
    archive can leave the folder. An archive with a member that tries to is refused all the same.

    Raises:
        GrigriError: if a member tries to, or two of those that fit are of the same name.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        parts = member.filename.split("/")
        if ".." in parts or not parts[0] or "\\" in member.filename or ":" in parts[0]:
            raise GrigriError(f"{path}: refused, its member {member.filename!r} leaves the folder")
        fits = re.fullmatch(pattern, parts[-1], re.ASCII)
        if not fits:
            continue
        key = fits[1].lstrip("0") or "0" if fits[1].isdigit() else fits[1]
        if key in members:
            raise GrigriError(f"{path}: {member.filename} and {members[key].filename} are the same")
        members[key] = member
    return members


def _read_labels(path: Path) -> dict[str, set[str]]:
    """Return the numbers of the images with each class's label, by the relevant annotations."""
    numbers = {}
    with zipfile.ZipFile(path) as archive:
        members = _members(archive, path, r"(\w+)_r1\.txt")
        missing = [f"{name}_r1.txt" for name in CLASSES if name not in members]
        if missing:
            raise GrigriError(f"{path}: there is no {', '.join(missing)} in it")
        for name in CLASSES:
            try:
                words = _read(archive, members[name], _MAX_TEXT_BYTES).split()
                for word in words:
                    if not re.fullmatch(rb"0{0,9}[1-9]\d{0,8}", word):
                        raise GrigriError(f"expected image numbers, not {word[:40]!r}")
            except GrigriError as e:
                raise GrigriError(f"{path}: {members[name].filename}: {e}") from e
            numbers[name] = {str(int(word)) for word in words}
    return numbers


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytes:
    """Return a member's bytes.

    zipfile reads no more than the size that a member declares, and compares its checksum, so a
    bomb is refused by what it declares or cut off there.

    Raises:
        GrigriError: if it is too large or damaged; the message is the reason alone.
    """
    if member.file_size > max_bytes:
        raise GrigriError(
            f"claims {member.file_size:,} bytes, more than the {max_bytes:,} that are read"
        )
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as e:
        raise GrigriError(f"damaged in the archive: {e}") from e


def _convert(
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    folder: Path,
    size_px: int,
    threads: int,
    callback: FetchCallback,
) -> dict[str, str]:
    """Write all images; return the reason by name of those that could not be."""
    numbers = sorted(members, key=int)
    skipped: dict[str, str] = {}

    def convert(number: str) -> str:
        try:
            content = cut_square(_read(archive, members[number], _MAX_IMAGE_BYTES), size_px)
        except GrigriError as e:
            return str(e)
        (folder / f"im{number}.jpg").write_bytes(content)
        return ""

    # Decoding and scaling release the interpreter's lock, so threads are enough.
    pool = file_pool(threads, "grigri-fetch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd headers
            for done, reason in enumerate(pool.map(convert, numbers), start=1):
                if reason:
                    skipped[f"im{numbers[done - 1]}.jpg"] = reason
                callback.on_convert(done, len(numbers))
    finally:
        pool.shutdown(cancel_futures=True)
    return skipped


def cut_square(content: bytes, size_px: int) -> bytes:
    """Return a JPEG, upright, cut to a square around its centre and scaled.

    Grayscale stays grayscale. With ``size_px`` 0 it is returned as it is, if it can be decoded.

    Raises:
        GrigriError: if it cannot be decoded, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.width * image.height > _MAX_IMAGE_PIXELS:
                raise GrigriError(f"{image.width:,} x {image.height:,} pixels are too many")
            image.load()
            if not size_px:
                return content
            upright = ImageOps.exif_transpose(image)
            if upright.mode not in ("L", "RGB"):
                upright = upright.convert("RGB")
            fitted = ImageOps.fit(upright, (size_px, size_px), Image.Resampling.LANCZOS)
            out = io.BytesIO()
            fitted.save(out, "JPEG", quality=_QUALITY)
            return out.getvalue()
    except GrigriError:
        raise
    except Exception as e:  # a damaged file makes Pillow raise nearly anything
        raise GrigriError(f"cannot be decoded: {e}") from e


def _write_provenance(
    folder: Path, archives: Mapping[str, Archive], fetched: Fetched, size_px: int
) -> None:
    """Write down what the folder was made from."""
    content: dict[str, Any] = {
        "dataset": "MIRFLICKR-25k (Huiskes and Lew, 2008), relevant annotations of 14 classes",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "size_px": size_px or "as they are",
        "num_images": fetched.num_images,
        "num_labels": fetched.num_labels,
        "skipped": fetched.skipped,
        "archives": [
            {"name": a.name, **asdict(a.origin), "sha256": a.sha256, "md5": a.md5}
            for a in archives.values()
        ],
        "licences": "Creative Commons, per photograph: see meta/license in mirflickr25k.zip",
    }
    files.write_atomic(folder / PROVENANCE, json.dumps(content, indent=2) + "\n")


def parse_sha256(words: Sequence[str]) -> dict[str, str]:
    """Return checksums by archive from words like ``mirflickr25k.zip=<64 hex digits>``.

    Raises:
        ValueError: if one is not of that form.
    """
    digits_of: dict[str, str] = {}
    for word in words:
        name, _, digits = word.partition("=")
        if name not in _ARCHIVES:
            raise ValueError(f"{word!r} must begin with {IMAGES}= or {ANNOTATIONS}=")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digits):
            raise ValueError(f"{name}={digits[:80]}: a SHA-256 has 64 hex digits")
        if name in digits_of:
            raise ValueError(f"{name} is given twice")
        digits_of[name] = digits
    return digits_of
