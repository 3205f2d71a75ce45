"""Near-duplicates are those of all pairs compared one by one."""

from pathlib import Path

import numpy as np
import pytest

from grigri_fast.curation import duplicates
from grigri_fast.curation.duplicates import Fingerprints
from grigri_fast.errors import GrigriError


def random_fingerprints(num: int, seed: int = 0) -> Fingerprints:
    rng = np.random.default_rng(seed)
    hashes_N = rng.integers(0, 2**64, num, dtype=np.uint64)
    return Fingerprints(
        np.arange(num) * 2, hashes_N, rng.integers(0, 255, (num, 256), dtype=np.uint8)
    )


def test_pairs_are_those_of_all_pairs_compared_one_by_one(monkeypatch) -> None:
    prints = random_fingerprints(70)
    prints.hashes_N[50:60] = prints.hashes_N[:10] ^ np.uint64(0b1011)
    prints.small_NP[50:58] = prints.small_NP[:8] // 2 + 20  # two of the ten are not alike
    expected = []
    for i in range(70):
        for j in range(i + 1, 70):
            bits = (int(prints.hashes_N[i]) ^ int(prints.hashes_N[j])).bit_count()
            alike = np.corrcoef(prints.small_NP[i], prints.small_NP[j])[0, 1]
            if bits <= 3 and alike >= 0.88:
                expected.append((2 * i, 2 * j, bits))
    assert len(expected) == 8
    for cells in (100, 10**6):
        monkeypatch.setattr(duplicates, "_BLOCK_CELLS", cells)
        monkeypatch.setattr(duplicates, "_CHUNK", cells)
        found = duplicates.near_duplicates(prints, 3)
        assert sorted((p.first, p.second, p.distance) for p in found) == expected
    assert duplicates.near_duplicates(prints, 2) == []


def test_the_most_alike_come_first_and_one_image_has_no_pair() -> None:
    prints = random_fingerprints(4)
    prints.hashes_N[:] = np.array([0, 1, 0, 7], dtype=np.uint64)
    prints.small_NP[:] = prints.small_NP[0]
    found = duplicates.near_duplicates(prints, 2)
    assert [(p.first, p.second, p.distance) for p in found] == [
        *((0, 4, 0), (0, 2, 1), (2, 4, 1), (2, 6, 2)),
    ]
    assert (
        duplicates.near_duplicates(random_fingerprints(1))
        == duplicates.near_duplicates(random_fingerprints(0))
        == []
    )


def test_plain_images_are_alike_only_if_they_are_the_same() -> None:
    prints = random_fingerprints(3)
    prints.hashes_N[:] = 0
    prints.small_NP[:] = np.array([[9], [9], [200]])
    assert [(p.first, p.second) for p in duplicates.near_duplicates(prints)] == [(0, 2)]


def test_too_many_pairs_are_one_line(monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "_MAX_PAIRS", 1000)
    prints = random_fingerprints(100)
    prints.hashes_N[:] = 5
    prints.small_NP[:] = prints.small_NP[0]
    with pytest.raises(GrigriError, match="more than 1,000 near-duplicates"):
        duplicates.near_duplicates(prints)


def test_real_photographs_have_a_copy(grigri: Path) -> None:
    paths = [grigri / "images" / f"im{n}.jpg" for n in (6602, 1472, 6921, 1607, 14928)]
    prints = duplicates.fingerprints(paths, threads=1, max_pixels=10**6)
    assert [(p.first, p.second) for p in duplicates.near_duplicates(prints)] == [(0, 2), (1, 3)]
