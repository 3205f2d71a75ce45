import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from small_set import decoded

from grigri_fast.pipeline import decode
from grigri_fast.pipeline.check import check_images


def exif_rotated(path: Path, image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(path, exif=exif, quality=95)


KINDS = {
    "gray.jpg": lambda path, image: image.convert("L").save(path, quality=95),
    "colour.jpg": lambda path, image: image.save(path, quality=95),
    "progressive.jpg": lambda path, image: image.save(path, quality=90, progressive=True),
    "turned.jpg": exif_rotated,
    "plain.png": lambda path, image: image.save(path),
    "palette.png": lambda path, image: image.convert("P").save(path),
    "alpha.png": lambda path, image: image.convert("RGBA").save(path),
    "lossless.webp": lambda path, image: image.save(path, lossless=True),
    "plain.bmp": lambda path, image: image.save(path),
    "plain.tiff": lambda path, image: image.save(path),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_seen_as_pillow_sees_it(tmp_path: Path, name: str) -> None:
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([4 * x, 5 * y, 2 * (x + y)], axis=2).clip(0, 255).astype(np.uint8)
    path = tmp_path / name
    KINDS[name](path, Image.fromarray(pixels))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = check_images([path], threads=1, max_pixels=10**8)
    assert not found.bad
    assert tuple(found.sizes_HW[0]) == expected.shape[:2]
    assert np.abs(decoded(path).astype(int) - expected.astype(int)).max() <= 1


def test_groups_fit_the_memory_together() -> None:
    rows = [0, 2, 3, *range(4, 74)]
    weights = [32, 32, 32, *[1] * 70]
    groups = list(decode.groups_of(rows, weights, limit=64))
    assert groups[0] == [0, 2]
    assert max(map(len, groups)) <= decode.GROUP_FILES
    assert [i for group in groups for i in group] == rows
    sizes = [len(group) for group in decode.groups_of(list(range(64)), [1] * 64, limit=99)]
    assert sizes == [22, 22, 20]  # not 31, 31, 2
    assert list(decode.groups_of([], [], limit=64)) == []


_FAILING = """
import io, sys
import numpy as np
from PIL import Image
from grigri_fast.pipeline import decode
file = io.BytesIO()
Image.new("RGB", (30, 33)).save(file, "JPEG")
good = np.frombuffer(file.getvalue(), dtype=np.uint8)
images = [good[:200], *[good] * (decode.GROUP_FILES - 1)]
for threads in (1, 2):
    setting = {"batch_size": 64, "num_threads": threads, "prefetch_queue_depth": 1}
    graph = decode.image_graph(device="cpu", shrink=False, device_id=None, **setting)
    graph.build()
    failed = 0
    for _ in range(150):
        graph.feed_input("encoded", images)
        try:
            graph.run()
        except RuntimeError:
            failed += 1
    assert failed == 150
print("alive")
"""


def test_a_group_with_a_bad_file_does_not_end_the_process() -> None:
    """As DALI 2.4.0 does with 32 files and more, in most runs of this program."""
    done = subprocess.run([sys.executable, "-c", _FAILING], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "alive\n"


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_the_graph_of_a_gpu_is_sound_as_far_as_can_be_seen_without_one(shrink, keep) -> None:
    """Wrong names and types of arguments, and operators that a GPU lacks, raise here."""
    setting = {"batch_size": 8, "num_threads": 1, "device_id": 0, "prefetch_queue_depth": 1}
    graph = decode.batch_graph(device="gpu", shrink=shrink, keep=keep, **setting)
    graph._build_graph()
    devices = [output.device for output in graph._graph_outputs]
    assert devices == ["gpu", "gpu", "cpu", "gpu"][: 4 if keep else 3]
    text = "\n".join(str(op.spec) for op in graph._ops)
    decoder = text[text.index("decoders__Image") :]
    for argument in (
        "device: mixed",
        "affine: False",
        "hw_decoder_load: 0",
        "device_memory_padding: 0",
    ):
        assert argument in decoder
    assert text.count("device: gpu") == 5 + shrink  # warp, split, reshape, mean, cast (, resize)


@pytest.mark.parametrize("kept_on", ["gpu", "cpu"])
def test_the_graph_of_a_gpu_for_kept_images_is_sound_too(kept_on: str) -> None:
    setting = {"batch_size": 8, "num_threads": 1, "device_id": 0, "prefetch_queue_depth": 1}
    graph = decode.look_graph(device="gpu", kept_on=kept_on, **setting)
    graph._build_graph()
    assert [output.device for output in graph._graph_outputs] == ["gpu", "gpu"]
