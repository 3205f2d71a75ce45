"""Small archives that look like MIRFLICKR-25k's."""

import io
import zipfile

import numpy as np
from PIL import Image

from grigri_fast.data.mirflickr import CLASSES

NUM_IMAGES = 60


def photo(number: int, size: tuple[int, int] = (50, 40), mode: str = "RGB") -> bytes:
    """Return a noisy JPEG with a red left edge, a blue right edge and a green middle."""
    width, height = size
    pixels = np.random.default_rng(number).integers(0, 40, (height, width, 3), dtype=np.uint8)
    pixels[:, : width // 5, 0] = 250
    pixels[:, width // 5 : -(width // 5), 1] = 150 + number
    pixels[:, -(width // 5) :, 2] = 250
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, "JPEG", quality=95)
    return content.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def image_members() -> dict[str, bytes]:
    members = {f"mirflickr/im{n}.jpg": photo(n) for n in range(1, NUM_IMAGES + 1)}
    members["mirflickr/im2.jpg"] = photo(2, mode="L")
    return members | {
        "mirflickr/": b"",
        "mirflickr/doc/README.txt": b"about",
        "mirflickr/meta/license/license1.txt": b"by",
    }


def label_members() -> dict[str, bytes]:
    members = {"README.txt": b"about", "indoor.txt": b"1\n2\n"}
    for c, name in enumerate(CLASSES):
        numbers = range(1 + c % 5, NUM_IMAGES + 1, 5 + c % 3)
        members[f"{name}_r1.txt"] = "".join(f"{n}\r\n" for n in numbers).encode()
        members[f"{name}.txt"] = b"1\n2\n3\n"  # the "potential" labels: not these
    return members
