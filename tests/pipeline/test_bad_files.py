"""Files from the wild among good ones: named, left out, and harmless, in every command."""

import csv
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from small_set import CLASSES, decoded, labels_of, write_image

from grigri_fast.pipeline import loader as pipeline
from grigri_fast.pipeline.check import check_images

SMALL = [
    "--arch=shufflenet_v2_x0_5",
    "--weights=none",
    "--recipe=report",
    "--size=32",
    "--epochs=2",
]
SMALL += ["--batch-size=8", "--amp=fp32", "--threads=1"]


def picture(kind: str, **how: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **how)
    return file.getvalue()


def png_bomb(side_px: int) -> bytes:
    """Return a whole PNG of many black pixels in few bytes (48 KB for 20,000 x 20,000)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)  # 1 bit per pixel
    packer = zlib.compressobj(9)
    row = bytes(1 + side_px // 8)
    body = b"".join(packer.compress(row) for _ in range(side_px)) + packer.flush()
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_bomb(side_px: int) -> bytes:
    """Return a JPEG whose header claims another size."""
    content = bytearray(picture("JPEG"))
    size = content.index(b"\xff\xc0") + 5
    content[size : size + 4] = struct.pack(">HH", side_px, side_px)
    return bytes(content)


def many_scans() -> bytes:
    """Return a progressive JPEG with its last scan 2,000 times over."""
    content = picture("JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 2000 + content[-2:]


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


BAD = {
    "truncated.jpg": (write(picture("JPEG")[:700]), "cannot be decoded"),
    "truncated.png": (write(picture("PNG")[:700]), "cannot be decoded"),
    "truncated.webp": (write(picture("WEBP")[:700]), "cannot be decoded"),
    "truncated.bmp": (write(picture("BMP")[:700]), "cannot be decoded"),
    "truncated.tiff": (write(picture("TIFF")[:700]), "cannot be decoded"),
    "header.jpg": (write(picture("JPEG")[:20]), "cannot be decoded"),
    "text.jpg": (write(b"I am no picture"), "not a JPEG, PNG"),
    "empty.jpg": (write(b""), "empty file"),
    "gif.jpg": (write(picture("GIF")), "GIF is not read"),
    "avif.jpg": (write(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1"), "cannot be decoded"),
    "jpeg2000-a.jpg": (write(b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff" * 99), "JPEG 2000 is not"),
    "jpeg2000-b.jpg": (write(b"\xff\x4f\xff\x51" + b"\xff" * 99), "JPEG 2000 is not"),
    "folder.jpg": (lambda path: path.mkdir(), "not a regular file"),
    "fifo.jpg": (lambda path: os.mkfifo(path), "not a regular file"),
    "device.jpg": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "dangling.jpg": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "loop.jpg": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "missing.jpg": (lambda path: None, "No such file"),
    "bomb.png": (write(png_bomb(20_000)), "20,000 x 20,000 pixels, more than"),
    "bomb.jpg": (write(jpeg_bomb(26_000)), "26,000 x 26,000 pixels, more than"),
    "scans.jpg": (write(many_scans()), "scans"),
    "nul\0.jpg": (lambda path: None, "NUL"),
    "s3://bucket/a.jpg": (lambda path: None, "an address (s3:), not a file"),
    "https://example.org/a.jpg": (lambda path: None, "an address (https:), not a file"),
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return a data set of 48 good images, and one of every bad kind between them."""
    folder = tmp_path / "mixed"
    rows = [{"file_name": f"{row}.jpg", "labels": labels_of(row)} for row in range(48)]
    for row in range(48):
        write_image(folder / f"{row}.jpg", row)
    for i, (name, (make, _)) in enumerate(BAD.items()):
        make(folder / name)
        rows.insert(2 * i, {"file_name": name, "labels": [CLASSES[i % 3]] if i % 2 else []})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(text)
    return folder


def shown(name: str, folder: Path) -> str:
    return str(folder / name)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_training_finishes_without_every_kind_of_bad_file(
    cli, mixed: Path, tmp_path: Path, monkeypatch
) -> None:
    seen: list[list[int]] = []
    train_epoch = pipeline.ImageLoader.train_epoch

    def recorded(self, *args: object, **options: object):
        seen.append([])
        for batch in train_epoch(self, *args, **options):
            seen[-1] += batch.rows_N.tolist()
            yield batch

    monkeypatch.setattr(pipeline.ImageLoader, "train_epoch", recorded)
    command = ["train", mixed, *SMALL, "--name=run", "--out", tmp_path]
    code, out, err = cli(*command, "--max-bad=0.5")
    assert (code, err) == (0, "")
    run = tmp_path / "run"
    with (run / "quarantine.csv").open(newline="") as file:
        found = {row["path"]: row for row in csv.DictReader(file)}
    assert set(found) == {shown(name, mixed) for name in BAD}
    for name, (_, says) in BAD.items():
        row = found[shown(name, mixed)]
        assert says in row["reason"] and row["since"] == "before training", name
    assert f"{len(BAD)} of 72 images cannot be used" in out
    # Each good image of the training part is seen exactly once in every epoch.
    names = [json.loads(line)["file_name"] for line in (mixed / "metadata.jsonl").open()]
    good = set(json.loads((run / "split.json").read_text())["parts"]["train"]) - set(BAD)
    assert len(seen) == 2
    for epoch in seen:
        assert sorted(names[row] for row in epoch) == sorted(good)
    assert json.loads((run / "summary.json").read_text())["images_left_out"] == len(BAD)

    # The same in evaluation and prediction.
    code, out, err = cli("eval", run, "--json", "--max-bad=0.5")
    assert (code, err) == (0, "")
    scored, val = json.loads(out), json.loads((run / "split.json").read_text())["parts"]["val"]
    assert scored["num_images"] == len(set(val) - set(BAD))
    assert set(scored["bad"]) == {shown(name, mixed) for name in set(val) & set(BAD)}
    code, out, err = cli("eval", run, "--part=train", "--max-bad=0.5")
    assert code == 0 and "more cannot be used and are left out" in out
    code, out, err = cli("predict", run, mixed, "--out", tmp_path / "p.json")
    left_out, error = err.splitlines()
    assert (code, left_out) == (1, "left out: 1 .jsonl") and "the others were labelled" in error
    predictions = {one["image"]: one for one in json.loads((tmp_path / "p.json").read_text())}
    for name, (_, says) in BAD.items():
        if shown(name, mixed) in predictions:
            assert says in predictions[shown(name, mixed)]["error"]
    assert sum(one["error"] is None for one in predictions.values()) == 48

    # And data check names them all.
    code, out, err = cli("data", "check", mixed)
    assert code == 1 and f"{len(BAD)} of 72 files cannot be used" in err
    assert all(says in out for _, says in BAD.values())


@pytest.mark.parametrize("options, allowed", [([], 3), (["--max-bad=0.2"], 14), (["--strict"], 0)])
def test_too_many_bad_files_stop_before_a_folder_is_made(
    cli, mixed: Path, tmp_path: Path, options: list, allowed: int
) -> None:
    code, _, err = cli("train", mixed, *SMALL, "--out", tmp_path / "runs", *options)
    assert code == 1 and err.count("\n") == 1 and str(mixed) in err
    assert not (tmp_path / "runs").exists()
    if allowed:
        assert f"more than --max-bad {allowed / 72:.2f}"[:20] in err


def small_png_that_asks_for_much() -> bytes:
    """Return a PNG with a chunk that claims 2 GiB (found by benchmarks/fuzz.py)."""
    content = bytearray(picture("PNG"))
    at = content.index(b"IDAT")
    content[at - 4 : at - 4] = struct.pack(">I", 0x7FFFFFFF) + b"abCd"
    return bytes(content)


BOMBS = [png_bomb(20_000), jpeg_bomb(26_000), many_scans(), small_png_that_asks_for_much()]


@pytest.mark.slow
@pytest.mark.parametrize("content", BOMBS, ids=["png", "jpeg", "scans", "chunk"])
def test_a_bomb_is_refused_in_little_memory_and_time(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bomb.jpg").write_bytes(content)
    write_image(tmp_path / "good.jpg", 1)
    program = (
        "import resource, sys, time; from pathlib import Path\n"
        "from grigri_fast.pipeline.check import check_images\n"
        "def peak_mib():\n"
        "    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)\n"
        "    return max(resource.getrusage(w).ru_maxrss for w in who) // 1024\n"
        "paths = [Path(p) for p in sys.argv[1:]]\n"
        # The first call loads the libraries and makes the pools.
        "check_images(paths[:1], threads=1, max_pixels=10**8)\n"
        "start_s, start_mib = time.monotonic(), peak_mib()\n"
        "found = check_images(paths, threads=1, max_pixels=10**8)\n"
        "assert list(found.bad) == [1], found.bad\n"
        "print(peak_mib() - start_mib, time.monotonic() - start_s)"
    )
    words = [sys.executable, "-c", program, tmp_path / "good.jpg", tmp_path / "bomb.jpg"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown_mib, took_s = map(float, done.stdout.split())
    assert grown_mib < 50  # decoded, the first two would take 1.2 and 2 GB
    assert took_s < 10


def test_max_pixels_lets_larger_images_in(cli, tmp_path: Path) -> None:
    for row in range(20):
        write_image(tmp_path / "photos" / f"{row}.jpg", row)
    large = tmp_path / "photos" / "20.jpg"
    write_image(large, 20, size=(300, 200))
    lines = [f"{row}.jpg,{'cat' if row % 2 else ''}" for row in range(21)]
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(["image,labels", *lines]))
    command = ["train", tmp_path / "photos", *SMALL, "--epochs=1", "--out", tmp_path]
    code, _, err = cli(*command, "--strict", "--max-pixels=59999")
    assert code == 1 and f"{large}: 300 x 200 pixels, more than the 59,999 of --max-pixels" in err
    assert cli(*command, "--strict", "--max-pixels=60000")[0] == 0
    assert cli("predict", tmp_path / "photos-shufflenet_v2_x0_5", large)[0] == 0
    code, out, _ = cli(
        "predict", tmp_path / "photos-shufflenet_v2_x0_5", large, "--max-pixels=59999"
    )
    assert code == 1 and "300 x 200 pixels" in out


# --------------------------------------------------- odd but good: converted the same way


def gray_16_bit(path: Path) -> np.ndarray:
    values = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(values).save(path)
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)


def turned(path: Path) -> np.ndarray:
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth().save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def saved(mode: str, **how: object) -> Callable[[Path], np.ndarray]:
    def save(path: Path) -> np.ndarray:
        smooth().convert(mode).save(path, **how)
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    return save


def alpha(path: Path) -> np.ndarray:
    image = smooth().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)
    return np.asarray(smooth())  # transparency is dropped, the colours beneath it are seen


def smooth() -> Image.Image:
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([4 * x, 5 * y, 2 * (x + y)], axis=2).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ODD = {
    "turned.jpg": turned,
    "cmyk.jpg": saved("CMYK", quality=95),
    "gray.jpg": saved("L", quality=95),
    "16-bit.png": gray_16_bit,
    "palette.png": saved("P"),
    "1-bit.png": saved("1"),
    "alpha.png": alpha,
    "gray-alpha.png": saved("LA"),
    "profile.jpg": saved("RGB", quality=95, icc_profile=SRGB),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_the_same_in_training_evaluation_and_prediction(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    expected = ODD[name](path).astype(int)
    seen = decoded(path)
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected).max() <= 1
    # What the model gets, in training and in evaluation, is made from these very pixels.
    plain = tmp_path / "plain.png"
    Image.fromarray(seen).save(plain)
    paths = [path, plain] * 2
    loader = pipeline.ImageLoader(
        paths,
        check_images(paths, threads=1, max_pixels=10**8),
        size_px=40,
        batch_size=4,
        device=torch.device("cpu"),
        threads=1,
    )
    (shown,) = loader.eval_epoch(np.arange(4))
    assert (shown.images_NHWC[0] == shown.images_NHWC[1]).all()
    (trained,) = loader.train_epoch(np.arange(4), seed=0, epoch=1, augment=False)
    order = trained.rows_N.argsort()
    assert (trained.images_NHWC[order] == shown.images_NHWC).all()
