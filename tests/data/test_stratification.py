"""The promise of a split, on random labels; groups; what a split depends on."""

import numpy as np
import pytest
from label_matrices import labelled, matrix
from skmultilearn.model_selection.iterative_stratification import IterativeStratification

from grigri_fast.data import balance, split, stratification
from grigri_fast.data.split import Split
from grigri_fast.errors import GrigriError

TWO, THREE = (0.8, 0.2), (0.7, 0.2, 0.1)


def require_promise(targets_NC: np.ndarray, part_of: np.ndarray, shares: tuple) -> None:
    num_images, num_classes = targets_NC.shape
    count_C = targets_NC.sum(0)
    for part, share in enumerate(shares):
        is_in = part_of == part
        assert abs(is_in.sum() - share * num_images) <= max(0.01 * num_images, num_classes)
        in_part_C = targets_NC[is_in].sum(0)
        assert (in_part_C[count_C > max(part, 1)] > 0).all()


def random_matrix(seed: int, most_images: int) -> tuple[np.ndarray, tuple[float, ...]]:
    rng = np.random.default_rng((seed, most_images))
    num_classes = round(np.exp(rng.uniform(np.log(2), np.log(1000))))
    most_labels = int(rng.integers(1, 11))
    # With fewer images some classes cannot be on both sides, whoever splits: see below.
    least = max(20, 3 * num_classes)
    num_images = round(np.exp(rng.uniform(np.log(least), np.log(max(least + 1, most_images)))))
    targets_NC = matrix(num_images, num_classes, most_labels, seed % 2, seed)
    return targets_NC, THREE if seed % 3 == 2 else TWO


@pytest.mark.parametrize("seed", range(40))
def test_a_split_of_random_labels_keeps_its_promise(seed: int) -> None:
    targets_NC, shares = random_matrix(seed, 2000)
    part_of = stratification.stratify(labelled(targets_NC), shares, seed)
    require_promise(targets_NC, part_of, shares)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 200))
def test_a_split_of_more_random_labels_keeps_its_promise(seed: int) -> None:
    targets_NC, shares = random_matrix(seed, 100_000 if seed % 20 == 0 else 4000)
    part_of = stratification.stratify(labelled(targets_NC), shares, seed)
    require_promise(targets_NC, part_of, shares)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [TWO, THREE])
def test_500_sparse_classes_are_on_all_sides(shares: tuple) -> None:
    targets_NC = matrix(2000, 500, 4, 0.5, 0)
    part_of = stratification.stratify(labelled(targets_NC), shares, 0)
    require_promise(targets_NC, part_of, shares)
    assert (np.abs(np.bincount(part_of) - np.array(shares) * 2000) <= 20).all()


@pytest.mark.parametrize("seed", range(10))
def test_few_images_of_many_classes_lack_as_few_as_can_be(seed: int) -> None:
    """Where no split has all classes on both sides; an integer program says how many can be."""
    from scipy.optimize import LinearConstraint, milp

    targets_NC = matrix(30, 60, 6, 0.5, seed)
    part_of = stratification.stratify(labelled(targets_NC), TWO, seed)
    of_many = targets_NC[:, targets_NC.sum(0) > 1].astype(float)
    count_C, num_classes = of_many.sum(0), of_many.shape[1]
    # Of each image whether it is in the second part; of each class whether a part lacks it.
    in_second = np.concatenate([of_many.T, np.eye(num_classes)], axis=1)
    in_first = np.concatenate([of_many.T, -np.eye(num_classes)], axis=1)
    best = milp(
        np.r_[np.zeros(30), np.ones(num_classes)],
        constraints=[LinearConstraint(in_second, lb=1), LinearConstraint(in_first, ub=count_C - 1)],
        integrality=np.ones(30 + num_classes),
        bounds=(0, 1),
    )
    in_second_C = of_many[part_of == 1].sum(0)
    assert ((in_second_C == 0) | (in_second_C == count_C)).sum() == round(best.fun)


def test_labels_that_keep_the_promise_are_split_by_pairs(monkeypatch) -> None:
    data = labelled(matrix(600, 6, 3, 0.5, 0))
    stratifier = IterativeStratification(
        n_splits=2, order=2, sample_distribution_per_fold=[0.2, 0.8]
    )
    np.random.seed(3)
    _, expected = next(stratifier.split(np.zeros((600, 1)), data.targets_NC.astype(int)))
    monkeypatch.setattr(balance, "balance", None)
    found = np.flatnonzero(stratification.stratify(data, TWO, 3) == 1)
    assert found.tolist() == sorted(expected.tolist())


def test_too_many_pairs_are_not_tried(monkeypatch) -> None:
    targets_NC = matrix(600, 6, 3, 0.5, 0)
    monkeypatch.setattr(stratification, "_MOST_WORK", 5 * 600)
    monkeypatch.setattr(stratification, "_cut", None)
    part_of = stratification.stratify(labelled(targets_NC), TWO, 3)
    require_promise(targets_NC, part_of, TWO)
    assert part_of.sum() == 120


@pytest.mark.parametrize("seed", range(3))
def test_sparse_rows_may_be_in_any_order(seed: int) -> None:
    targets_NC = matrix(150, 60, 3, 0.5, 0)
    order = np.random.default_rng(seed).permutation(150)
    groups = np.arange(150) // 2
    for fields in ({}, {"groups": groups}):
        data = labelled(targets_NC, **fields)
        part_of = stratification.stratify(data, TWO, 0)
        assert np.array_equal(stratification.stratify(data.only(order), TWO, 0), part_of[order])


def test_unknown_labels_count_as_absent() -> None:
    targets_NC = matrix(200, 30, 3, 0.5, 0)
    unknown_NC = np.random.default_rng(0).random(targets_NC.shape) < 0.2
    known = labelled(targets_NC & ~unknown_NC)
    # 1 where it is unknown, which is not how data are read, so that it could be seen.
    with_unknown = labelled(targets_NC | unknown_NC, unknown_NC=unknown_NC)
    expected = stratification.stratify(known, TWO, 0)
    assert np.array_equal(stratification.stratify(with_unknown, TWO, 0), expected)


# ----------------------------------------------------------------------------------- groups


def grouped(num_groups: int, most_images: int, seed: int = 0, num_classes: int = 8):
    """Return a data set of groups of 1 to ``most_images`` images."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), rng.integers(1, most_images + 1, num_groups))
    groups = rng.permutation(groups) * 7 + 3  # any numbers
    return labelled(matrix(len(groups), num_classes, 3, 0.5, seed), groups=groups)


def parts_of_groups(parts: Split, groups: np.ndarray) -> list[set[int]]:
    return [set(groups[rows].tolist()) for rows in parts.parts.values()]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("test_share", [0.0, 0.1])
def test_images_of_a_group_stay_on_one_side(test_share: float, seed: int) -> None:
    data = grouped(120, 6, seed)
    parts = split.stratify(data, 0.2, test_share, seed)
    of_parts = parts_of_groups(parts, data.groups)
    assert sum(map(len, of_parts)) == len(set(data.groups.tolist())) == 120
    total_C = data.targets_NC.sum(0)
    for name, rows in parts.parts.items():
        assert abs(len(rows) - parts.asked[name] * len(data)) <= 0.01 * len(data) + 0.5
        far_C = np.abs(data.targets_NC[rows].sum(0) - parts.asked[name] * total_C)
        assert (far_C <= 0.05 * total_C + 2).all()
    assert parts.notes == ()


def test_groups_of_one_image_change_nothing() -> None:
    alone, together = labelled(matrix(100, 5, 3, 0, 0)), np.arange(100)[::-1]
    expected = split.stratify(alone, 0.2).parts["val"]
    in_groups = labelled(alone.targets_NC, groups=together)
    assert np.array_equal(split.stratify(in_groups, 0.2).parts["val"], expected)


def test_a_class_of_two_groups_is_on_both_sides() -> None:
    data = grouped(60, 5, num_classes=4)
    rare = np.zeros((len(data), 3), dtype=bool)
    numbers = np.unique(data.groups)
    rare[np.isin(data.groups, numbers[:2]), 0] = True
    rare[np.isin(data.groups, numbers[2:4]), 1] = True
    rare[data.groups == numbers[np.bincount(data.groups)[numbers].argmax()], 2] = True
    data = labelled(np.concatenate([data.targets_NC, rare], axis=1), groups=data.groups)
    parts = split.stratify(data, 0.2)
    for rows in parts.parts.values():
        assert data.targets_NC[rows][:, 4:6].any(0).all()
    absent = split.absences(parts, data)
    assert [a.class_name for a in absent] == ["class6"]
    assert absent[0].parts == ("val",) and absent[0].why == "its 5 images are in 1 group"


def test_folds_keep_groups_whole() -> None:
    data = grouped(80, 5)
    folds = split.folds(data, 4)
    assert sorted(np.concatenate(folds)) == list(range(len(data)))
    in_folds = [set(data.groups[rows].tolist()) for rows in folds]
    assert sum(map(len, in_folds)) == 80
    assert max(map(len, folds)) - min(map(len, folds)) < 0.05 * len(data)


def test_a_limited_split_keeps_groups_on_one_side() -> None:
    data = grouped(100, 5)
    few = split.stratify(data, 0.2).limited(60, seed=0)
    train, val = parts_of_groups(few, data.groups)
    assert not train & val
    assert {part: len(rows) for part, rows in few.parts.items()} == {"train": 48, "val": 12}


def test_a_group_that_is_too_large_is_said() -> None:
    groups = np.repeat([5, 6, 7], [70, 20, 10])
    parts = split.stratify(labelled(matrix(100, 3, 2, 0, 0), groups=groups), 0.5)
    assert sorted(map(len, parts.parts.values())) == [30, 70]
    note = next(note for note in parts.notes if "the group of" in note)
    part = max(parts.parts, key=lambda p: len(parts.parts[p]))
    assert note == f"the group of im1.jpg has 70 images, more than the 50 that {part} should have"
    assert "val has" in parts.notes[0] and "so that groups stay whole" in parts.notes[0]


@pytest.mark.parametrize(
    ("num_groups", "words"), [(1, "all images are in one group"), (2, "only 2")]
)
def test_fewer_groups_than_parts_are_an_error(num_groups: int, words: str) -> None:
    data = labelled(matrix(30, 3, 2, 0, 0), groups=np.arange(30) % num_groups)
    with pytest.raises(GrigriError, match=f"a set: {words}.*--group-column none"):
        split.stratify(data, 0.2, 0.2)
