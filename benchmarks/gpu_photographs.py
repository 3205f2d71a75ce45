"""Data for a GPU acceptance run: originals of 12 Mpx, and as many small photographs as are needed.

Both are made of the photographs of DATA, with their labels; nothing is fetched.
"""

import csv
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from gpu_record import Place
from numpy.typing import NDArray

from grigri_fast.data import dataset
from grigri_fast.runtime.cpu_share import usable_cpus

LARGE_PX = (4000, 3000)  # width, height: 12 Mpx, as phones take them
_GRAIN = 6.0  # levels, the standard deviation of a phone's noise in dim light (assumed)
_QUALITY = 90


def load(place: Place) -> dataset.Dataset:
    """Return the data set of the run."""
    return dataset.load(place.data)


def write_labels(file: Path, names: Sequence[str], data: dataset.Dataset, rows: list[int]) -> Path:
    """Write a table: image ``names[i]`` has the labels of ``rows[i]`` of a data set."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", *data.class_names])
        for name, row in zip(names, rows, strict=True):
            writer.writerow([name, *data.targets_NC[row].astype(int).tolist()])
    return file


def enlarged(path: Path, grain_HW: NDArray[np.int16], seed: int, size_px: tuple[int, int]) -> bytes:
    """Return the photograph in a file as a large JPEG.

    It is enlarged, which keeps its shapes and colours, and given grain, without which it would hold
    a tenth of the bytes of a real one and be decoded too fast.

    Args:
        path: of the photograph.
        grain_HW: noise, in levels, at least as large as the result.
        seed: of where the grain is cut out.
        size_px: width and height of the result.
    """
    small_HWC = cv2.imread(str(path), cv2.IMREAD_COLOR)
    large_HWC = cv2.resize(small_HWC, size_px, interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(seed)
    shifts = rng.integers(0, 64, 2)
    height, width = size_px[1], size_px[0]
    grain = grain_HW[shifts[0] : shifts[0] + height, shifts[1] : shifts[1] + width]
    noisy_HWC = cv2.add(large_HWC, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
    done, encoded = cv2.imencode(".jpg", noisy_HWC, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise OSError(f"{path} could not be encoded")
    return encoded.tobytes()


def large(place: Place) -> tuple[Path, float]:
    """Return a table of photographs of 12 Mpx, and the seconds that it took to make them.

    There are 200 files, each under five names, so that an epoch is long enough. Those that an
    earlier part has made are taken as they are.
    """
    folder, start_s = place.work / "large", time.perf_counter()
    table = folder / "labels.csv"
    if table.exists():
        return table, 0.0
    (folder / "images").mkdir(parents=True, exist_ok=True)
    data = load(place)
    size_px = place.sized(LARGE_PX, (400, 300))
    num, names_each = place.sized((200, 5), (24, 1))
    rng = np.random.default_rng(0)
    shape = (size_px[1] + 64, size_px[0] + 64)
    grain_HW = (rng.standard_normal(shape, dtype=np.float32) * _GRAIN).astype(np.int16)
    rows = np.linspace(0, len(data) - 1, min(num, len(data))).astype(int).tolist()

    def write(row: int) -> None:
        file = folder / "images" / f"{row}.jpg"
        file.write_bytes(enlarged(data.paths[row], grain_HW, row, size_px))
        for i in range(1, names_each):
            link = folder / "images" / f"{row}-{i}.jpg"
            link.unlink(missing_ok=True)
            link.symlink_to(file.name)

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(usable_cpus()) as pool:
        list(pool.map(write, rows))
    names = [f"images/{row}.jpg" for row in rows]
    names += [f"images/{row}-{i}.jpg" for i in range(1, names_each) for row in rows]
    write_labels(table, names, data, rows * names_each)  # last: with it, all is there
    return table, time.perf_counter() - start_s


def many(place: Place, num: int) -> list[Path]:
    """Return ``num`` paths of the small photographs: where there are fewer, links to them."""
    paths = load(place).paths
    if len(paths) >= num:
        return paths[:num]
    folder = place.work / "links"
    folder.mkdir(exist_ok=True)
    links = [folder / f"{i}{paths[i % len(paths)].suffix}" for i in range(num)]
    for i, link in enumerate(links):
        if not link.is_symlink():
            link.symlink_to(paths[i % len(paths)].resolve())
    return links


def many_with_labels(place: Place, num: int) -> Path:
    """Return a table of ``num`` small photographs with their labels."""
    data, paths = load(place), many(place, num)
    rows = [i % len(data) for i in range(num)]
    return write_labels(place.work / "many.csv", [str(path) for path in paths], data, rows)
