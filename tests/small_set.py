"""Small images whose colour encodes the row, so that a mix-up of images is caught."""

from pathlib import Path

import numpy as np
from PIL import Image

from grigri_fast.data.dataset import Dataset
from grigri_fast.pipeline.decode import image_graph

CLASSES = ("cat", "dog", "sky")


def labels_of(row: int) -> list[str]:
    """Return the labels of image ``row`` of the small set: half of them have none."""
    return [name for c, name in enumerate(CLASSES) if row % 2 and (row // 2) % 4 in (c, 3)]


def colour_of(row: int) -> tuple[int, int, int]:
    """Return a colour that tells the row (up to 255) after JPEG, and shows the labels."""
    labels = labels_of(row)
    return (row, 220 if "cat" in labels else 30, 220 if "dog" in labels else 30)


def write_image(path: Path, row: int, size: tuple[int, int] = (40, 32)) -> None:
    """Write a JPEG (W x H) of one colour, with a bright stripe if it has the label sky."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:] = colour_of(row)
    if "sky" in labels_of(row):
        pixels[: size[1] // 3] = (row, 128, 250)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def write_photos(folder: Path) -> Path:
    """Write a data set of 48 images in the MIRFLICKR layout, numbered from 1."""
    (folder / "annotations").mkdir(parents=True)
    for row in range(48):
        write_image(folder / "images" / f"im{row + 1}.jpg", row)
    for name in CLASSES:
        numbers = [row + 1 for row in range(48) if name in labels_of(row)]
        text = "".join(f"{n}\n" for n in numbers)
        (folder / "annotations" / f"{name}.txt").write_text(text)
    (folder / "annotations" / "README.txt").write_text("not a class\n")
    return folder


def decoded(path: Path) -> np.ndarray:
    """Return the pixels (H, W, 3) of an image file as the check sees them."""
    graph = image_graph(
        device="cpu",
        shrink=False,
        batch_size=1,
        num_threads=1,
        device_id=None,
        prefetch_queue_depth=1,
    )
    graph.build()
    graph.feed_input("encoded", [np.fromfile(path, dtype=np.uint8)])
    (images,) = graph.run()
    return np.array(images[0])


def labelled(targets_NC: np.ndarray) -> Dataset:
    """Return a data set of labels alone."""
    names = [f"{i}.jpg" for i in range(len(targets_NC))]
    classes = [f"c{c}" for c in range(targets_NC.shape[1])]
    return Dataset(
        names, [Path(n) for n in names], targets_NC.astype(np.float32), classes, "made up"
    )
