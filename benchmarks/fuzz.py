"""Do damaged files ever crash, hang or surprise the check of the images, or a reader?

    python benchmarks/fuzz.py [--images 20000] [--texts 6000] [--labels 20000] [--seed 0]
        [--out result.json] [--keep DIR]

Seed files of every kind that is read (and some that are not) are damaged: bits, bytes, numbers,
blocks, cuts, splices; input i depends on seed and i alone. Images go through
``check.check_images``, 64 at a time; configs, splits, checkpoints, weights and label files through
their readers. All this happens in child processes. What counts as a finding: a child that ends by a
signal, hangs, raises anything but ``GrigriError``, or takes more than 600 MiB for a batch of small
files; an image whose decoder crashed, where it was the image's fault; a damaged label file that is
read as something else without a word (the rules are in ``fuzz_labels.py``). A finding is narrowed
down to single inputs, which ``--keep DIR`` saves.
"""

import argparse
import io
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from damage import damaged
from fuzz_labels import fuzz_labels, label_input
from PIL import Image

_BATCH = 64  # images in a call of check_images
_SHARE = 1024  # inputs in a child process
_PATIENCE_S = 300  # for a share
_MAX_PIXELS = 1_000_000
_MORE_MEMORY_KIB = 600 * 1024


# ------------------------------------------------------------------------------ whole files


@cache
def whole_images() -> list[bytes]:
    """Return small images of all kinds."""
    pillow_heif.register_heif_opener()
    y, x = np.mgrid[:40, :56]
    waves = 127 + 100 * np.sin(np.stack([x / 3, y / 5, (x + y) / 7], axis=2))
    noise = np.random.default_rng(0).normal(0, 10, waves.shape)
    image = Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))
    deep = Image.fromarray(np.arange(40 * 56, dtype=np.uint16).reshape(40, 56) * 29)
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = image.convert("RGBA")
    alpha.putalpha(77)
    plans: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (image, "JPEG", {}),
        (image, "JPEG", {"progressive": True}),
        (image, "JPEG", {"subsampling": 0, "restart_marker_blocks": 2}),
        (image, "JPEG", {"exif": exif}),
        (image.convert("L"), "JPEG", {}),
        (image.convert("CMYK"), "JPEG", {}),
        *((image.convert(mode), "PNG", {}) for mode in ("RGB", "P", "1", "L", "LA")),
        (alpha, "PNG", {}),
        (deep, "PNG", {}),
        (image, "WEBP", {}),
        (image, "WEBP", {"lossless": True, "exif": exif.tobytes()}),
        (alpha, "WEBP", {}),
        (image, "WEBP", {"save_all": True, "append_images": [image.rotate(90)] * 2}),
        *(
            (image, "TIFF", {"compression": name})
            for name in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        (image.convert("1"), "TIFF", {"compression": "group4"}),
        (image, "TIFF", {"save_all": True, "append_images": [image] * 2}),
        (deep, "TIFF", {}),
        *((image.convert(mode), "BMP", {}) for mode in ("RGB", "P", "1", "L")),
        (alpha, "BMP", {}),
        *((image.convert(mode), "TIFF", {}) for mode in ("CMYK", "LA", "1")),  # for Pillow
        (image, "AVIF", {}),
        (image, "HEIF", {}),
        (image, "GIF", {}),
        (image, "JPEG2000", {}),
    ]
    contents = []
    for picture, kind, how in plans:
        file = io.BytesIO()
        picture.save(file, kind, **how)
        contents.append(file.getvalue())
    return contents


@cache
def whole_texts() -> dict[str, list[bytes]]:
    """Return whole files of every other kind that is read but labels, by kind."""
    import safetensors.torch
    import torch

    from grigri_fast.config import TrainConfig
    from grigri_fast.models import factory
    from grigri_fast.runs import checkpoint
    from grigri_fast.runtime.option import write_toml

    parts = {"train": [f"{i}.jpg" for i in range(7)], "val": ["7.jpg", "8.jpg"]}
    weights = {"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(3)}
    pickled = io.BytesIO()
    torch.save(weights, pickled)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        info = checkpoint.ModelInfo("simple", 16, ["cat", "dog"])
        checkpoint.save(path, factory.build("simple", 2, 16), info)
        model = path.read_bytes()
    return {
        "toml": [write_toml(TrainConfig(data="photos", lr=0.1, name="run")).encode()],
        "split": [json.dumps({"format": "grigri-fast split 1", "parts": parts}).encode()],
        "checkpoint": [model],
        "safetensors": [safetensors.torch.save(weights)],
        "pth": [pickled.getvalue()],
    }


# ---------------------------------------------------------------------------------- inputs


def image_input(number: int, seed: int) -> bytes:
    """Return image input ``number``."""
    rng = random.Random(f"image {seed} {number}")
    return damaged(rng.choice(whole_images()), whole_images(), rng)


def text_input(number: int, seed: int) -> tuple[str, bytes]:
    """Return the kind and the content of text input ``number``."""
    rng = random.Random(f"text {seed} {number}")
    kind = rng.choice(sorted(whole_texts()))
    return kind, damaged(rng.choice(whole_texts()[kind]), whole_texts()[kind], rng)


# ---------------------------------------------------------------------------- in the child


def fuzz_images(numbers: range, seed: int, folder: Path) -> Counter:
    """Put images through the check; return how often it gave each answer."""
    from grigri_fast.pipeline import check

    said: Counter = Counter()
    crashed = check._Worker._crashed

    def counted(worker: check._Worker) -> None:
        said["image: (crashes of the decoder's process, absorbed)"] += 1
        crashed(worker)

    check._Worker._crashed = counted
    for first in range(numbers.start, numbers.stop, _BATCH):
        batch = range(first, min(first + _BATCH, numbers.stop))
        paths = [folder / f"{number}.jpg" for number in batch]
        for number, path in zip(batch, paths, strict=True):
            path.write_bytes(image_input(number, seed))
        before = _peak_kib()
        found = check.check_images(paths, threads=1, max_pixels=_MAX_PIXELS, use_cache=False)
        grown = _peak_kib() - before
        if grown > _MORE_MEMORY_KIB:
            raise MemoryError(f"inputs {batch} took {grown // 1024} MiB")
        for reason in found.bad.values():
            assert "\n" not in reason
            said["image: " + re.sub(r"-?[\d,]*\d", "N", reason.partition(":")[0])] += 1
        said["image: accepted"] += len(paths) - len(found.bad)
        for path in paths:
            path.unlink()
    return said


def _peak_kib() -> int:
    """Return the most memory that this process or one of its children has had."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(w).ru_maxrss for w in who)


def fuzz_texts(numbers: range, seed: int, folder: Path) -> Counter:
    """Put other files through their readers; return how often they were accepted."""
    from grigri_fast.errors import GrigriError

    said: Counter = Counter()
    for number in numbers:
        kind, content = text_input(number, seed)
        file = folder / f"x.{kind}"
        file.write_bytes(content)
        try:
            _READERS[kind](file)
            assert kind != "checkpoint" or content in whole_texts()[kind], "damage was not noticed"
            said[f"{kind}: accepted"] += 1
        except GrigriError as e:
            assert "\n" not in str(e)
            said[f"{kind}: refused"] += 1
        file.unlink()
    return said


def _read_checkpoint(file: Path) -> None:
    import torch

    from grigri_fast.runs import checkpoint

    checkpoint.load(file, torch.device("cpu"))


def _read_weights(file: Path) -> None:
    from grigri_fast.models import weights

    weights.read_state(file)


def _read_config(file: Path) -> None:
    from grigri_fast.config import TrainConfig, read_toml, resolve

    resolve(TrainConfig(**read_toml(file)))


def _read_split(file: Path) -> None:
    from grigri_fast.data import dataset, split

    names = [f"{i}.jpg" for i in range(9)]
    paths = [Path(name) for name in names]
    split.read(file, dataset.Dataset(names, paths, np.ones((9, 1), np.float32), ["a"], "photos"))


_READERS: dict[str, Callable[[Path], None]] = {
    "toml": _read_config,
    "split": _read_split,
    "checkpoint": _read_checkpoint,
    "safetensors": _read_weights,
    "pth": _read_weights,
}
_INPUTS: dict[str, Callable[[int, int], Any]] = {
    "images": image_input,
    "texts": text_input,
    "labels": label_input,
}
_CHECKS = {"images": fuzz_images, "texts": fuzz_texts, "labels": fuzz_labels}


# --------------------------------------------------------------------------- in the parent


def run_child(what: str, numbers: range, seed: int) -> tuple[Counter, str]:
    """Check inputs in a process of their own; return what was said, and what went wrong or ""."""
    words = [sys.executable, __file__, "--child", what, str(numbers.start), str(numbers.stop)]
    try:
        done = subprocess.run(
            [*words, str(seed)], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Counter(), f"hangs for {_PATIENCE_S} s"
    if done.returncode < 0:
        return Counter(), f"ended by signal {-done.returncode}"
    if done.returncode:
        return Counter(), done.stderr[-1500:]
    return Counter(json.loads(done.stdout.splitlines()[-1])), ""


def narrowed(what: str, numbers: range, seed: int, wrong: str) -> dict[range, str]:
    """Return the smallest ranges of inputs that go wrong, with what does."""
    if len(numbers) == 1:
        return {numbers: wrong}
    middle = (numbers.start + numbers.stop) // 2
    found: dict[range, str] = {}
    for half in (range(numbers.start, middle), range(middle, numbers.stop)):
        _, wrong_here = run_child(what, half, seed)
        if wrong_here:
            found |= narrowed(what, half, seed, wrong_here)
    return found or {numbers: wrong}  # wrong only in company


def main() -> None:
    """Fuzz, print and write what was found; exit with 1 if something was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--texts", type=int, default=6_000)
    parser.add_argument("--labels", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    start_s = time.perf_counter()
    said: Counter = Counter()
    findings: dict[str, str] = {}
    counts = {"images": options.images, "texts": options.texts, "labels": options.labels}
    for what, count in counts.items():
        for first in range(0, count, _SHARE):
            numbers = range(first, min(first + _SHARE, count))
            here, wrong = run_child(what, numbers, options.seed)
            said += here
            for few, why in (narrowed(what, numbers, options.seed, wrong) if wrong else {}).items():
                findings[f"{what} {few.start}-{few.stop - 1}"] = why
                print(f"FOUND: {what} {few.start}-{few.stop - 1}: {why}", flush=True)
                if options.keep is not None:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    for n in few:
                        made = _INPUTS[what](n, options.seed)
                        content = made if isinstance(made, bytes) else made[-1]
                        (options.keep / f"{what}-{n}").write_bytes(content)
            print(f"{what} {numbers.stop:,}/{count:,}  {len(findings)} findings", flush=True)
    for key, number in sorted(said.items(), key=lambda item: (item[0].split(":")[0], -item[1])):
        print(f"{number:8,}  {key}")
    took_s = time.perf_counter() - start_s
    print(f"{sum(counts.values()):,} inputs, {len(findings)} findings, {took_s:.0f} s")
    if options.out is not None:
        result = {
            "command": " ".join(["python", "benchmarks/fuzz.py", *sys.argv[1:]]),
            "seed": options.seed,
            "inputs": counts,
            "said": dict(said),
            "findings": findings,
            "seconds": round(took_s),
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(findings))


def child() -> None:
    """Be the child: check a range of inputs, print what was said as the last line."""
    what, first, last, seed = sys.argv[2], *map(int, sys.argv[3:6])
    with tempfile.TemporaryDirectory() as folder:
        said = _CHECKS[what](range(first, last), seed, Path(folder))
    print(json.dumps(said))


if __name__ == "__main__":
    child() if "--child" in sys.argv[1:2] else main()
