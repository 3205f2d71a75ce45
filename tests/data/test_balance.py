from itertools import pairwise, product

import numpy as np
import pytest
from label_matrices import matrix

from grigri_fast.data import balance
from grigri_fast.data.balance import Units


def units(labels: list[list[int]], num_classes: int, sizes: list[int] | None = None) -> Units:
    """Return units whose images have all of the unit's labels."""
    sizes = sizes or [1] * len(labels)
    counts = [[size] * len(of_unit) for of_unit, size in zip(labels, sizes, strict=True)]
    return Units(labels, counts, sizes, num_classes)


def of_matrix(targets_NC: np.ndarray) -> Units:
    return units([np.flatnonzero(row).tolist() for row in targets_NC], targets_NC.shape[1])


def num_lacking(part_of: list[int], targets_NC: np.ndarray, num_parts: int) -> int:
    """Return how many times a part lacks a class that enough images have."""
    parts = np.array(part_of)
    count_C = targets_NC.sum(0)
    return sum(
        int(((targets_NC[parts == p].sum(0) == 0) & (count_C > max(p, 1))).sum())
        for p in range(num_parts)
    )


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.5, 0.5), (0.7, 0.2, 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_sizes_are_exact_and_classes_near(shares: tuple[float, ...], seed: int) -> None:
    targets_NC = matrix(1000, 40, 5, 1, seed)
    part_of = np.array(balance.balance(of_matrix(targets_NC), shares, seed))
    for part, share in enumerate(shares):
        assert (part_of == part).sum() == share * 1000
        far_C = np.abs(targets_NC[part_of == part].sum(0) - share * targets_NC.sum(0))
        # A random draw would be off by 15 images in the most frequent class, by 2 in the rarest.
        assert far_C.max() < 4 and far_C.mean() < 1
    assert num_lacking(part_of.tolist(), targets_NC, len(shares)) == 0


def test_frequent_pairs_are_near_too() -> None:
    targets_NC = matrix(2000, 12, 4, 0.5, 0)
    part_of = np.array(balance.balance(of_matrix(targets_NC), (0.8, 0.2), 0))
    all_CC, val_CC = (t.T.astype(int) @ t for t in (targets_NC, targets_NC[part_of == 1]))
    # A random draw would be off by 6 of the 230 images of a pair, on average 3.
    assert np.abs(val_CC - 0.2 * all_CC).max() < 4


def fewest_lacking(targets_NC: np.ndarray) -> int:
    """Return the best that any of all parts in two does."""
    return min(
        num_lacking(list(parts), targets_NC, 2) for parts in product((0, 1), repeat=len(targets_NC))
    )


@pytest.mark.parametrize("seed", range(12))
def test_no_split_at_all_has_more_classes_on_both_sides(seed: int) -> None:
    targets_NC = matrix(9, 14, 3, 0, seed)
    part_of = balance.balance(of_matrix(targets_NC), (0.8, 0.2), seed)
    assert num_lacking(part_of, targets_NC, 2) == fewest_lacking(targets_NC)


def test_what_cannot_be_on_both_sides_leaves_one_class_out() -> None:
    """Three images, three classes, each of two of them: a circle of odd length."""
    circle = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=bool)
    part_of = balance.balance(of_matrix(circle), (0.5, 0.5), 0)
    assert num_lacking(part_of, circle, 2) == 1


def test_a_dead_end_is_left_by_a_random_step() -> None:
    """A chain of classes, each of two images: sides must take turns from one end to the other."""
    chain = np.zeros((40, 39), dtype=bool)
    for c in range(39):
        chain[c : c + 2, c] = True
    part_of = balance.balance(of_matrix(chain), (0.5, 0.5), 0)
    assert num_lacking(part_of, chain, 2) == 0
    assert all(a != b for a, b in pairwise(part_of))


def test_a_class_of_one_image_is_in_the_first_part() -> None:
    targets_NC = matrix(400, 20, 3, 0, 0)
    alone = np.eye(400, dtype=bool)[:, 50:100]
    targets_NC = np.concatenate([targets_NC, alone], axis=1)
    part_of = balance.balance(of_matrix(targets_NC), (0.8, 0.2), 0)
    assert part_of.count(1) == 80
    assert set(part_of[50:100]) == {0}


def test_a_class_has_as_many_parts_as_images_the_first_ones_first() -> None:
    labels = [[0], [1], [1], [2], [2], [2], *([[3]] * 94)]
    part_of = balance.balance(units(labels, 4), (0.7, 0.2, 0.1), 0)
    assert part_of[0] == 0
    assert sorted(part_of[1:3]) == [0, 1]
    assert sorted(part_of[3:6]) == [0, 1, 2]
    assert [part_of.count(p) for p in range(3)] == [70, 20, 10]


def test_a_unit_counts_as_many_images_as_it_has() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 12, 150).tolist()
    targets_NC = matrix(150, 8, 3, 0, 0)
    labels = [np.flatnonzero(row).tolist() for row in targets_NC]
    part_of = np.array(balance.balance(units(labels, 8, sizes), (0.75, 0.25), 0))
    size_N, total = np.array(sizes), sum(sizes)
    assert abs(size_N[part_of == 1].sum() - 0.25 * total) <= 0.01 * total
    of_class_C = (targets_NC * size_N[:, None]).sum(0)
    far_C = np.abs((targets_NC * size_N[:, None])[part_of == 1].sum(0) - 0.25 * of_class_C)
    assert (far_C < 0.05 * of_class_C).all()


def test_the_same_seed_gives_the_same_parts() -> None:
    of_images = of_matrix(matrix(200, 100, 4, 1, 0))
    first = balance.balance(of_images, (0.8, 0.2), 3)
    assert balance.balance(of_images, (0.8, 0.2), 3) == first
    assert balance.balance(of_images, (0.8, 0.2), 4) != first
