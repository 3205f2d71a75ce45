"""Photographs of a page: which are shown, and their small pictures."""

from pathlib import Path

import numpy as np
from PIL import Image
from small_set import write_image

from grigri_fast.reporting import photographs


def test_the_most_confident_errors_come_first() -> None:
    probabilities = np.array([0.9, 0.1, 0.8, 0.95, 0.3, 0.05, 0.7, 0.6, 0.99])
    targets = np.array([0, 1, 0, 1, 1, 1, 0, 1, 1], dtype=bool)
    picks = photographs.pick(probabilities, probabilities >= 0.5, targets, most=2)
    assert picks.alarms == [0, 2]
    assert picks.missed == [5, 1]
    assert picks.right[0] == 3  # the median of 0.6, 0.95 and 0.99
    assert photographs.pick(probabilities, np.zeros(9, bool), np.zeros(9, bool), 2).rows == []


def test_photographs_keep_their_shape_and_a_bad_one_its_reason(tmp_path: Path) -> None:
    write_image(tmp_path / "wide.jpg", 1, size=(400, 100))
    write_image(tmp_path / "tall.jpg", 200, size=(30, 60))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    paths = [tmp_path / f"{name}.jpg" for name in ("wide", "gone", "bad", "tall")]
    photos = photographs.read(paths, range(4), threads=1, max_pixels=10**6)
    assert {row: (p.width_px, p.height_px) for row, p in photos.items() if not p.missing} == {
        0: (96, 24),
        3: (48, 96),
    }
    assert photos[1].missing == "No such file or directory"
    assert photos[2].missing.startswith("cannot be decoded")
    assert photos[0].jpeg[:3] == photos[3].jpeg[:3] == b"\xff\xd8\xff"
    assert photographs.read(paths, [1, 2], threads=1, max_pixels=10**6).keys() == {1, 2}


def test_photographs_get_coarser_where_there_are_too_many() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    small = {row: Image.fromarray(noise) for row in range(3)}
    fine = sum(len(p.jpeg) for p in photographs.encode(small).values())
    assert sum(len(p.jpeg) for p in photographs.encode(small, fine - 1).values()) < fine
