import json
from pathlib import Path

import numpy as np
import pytest
from label_matrices import labelled, matrix

from grigri_fast.data import dataset, split, stratification
from grigri_fast.data.dataset import Dataset
from grigri_fast.data.split import Split
from grigri_fast.errors import GrigriError

# What the report of 2020 prints, to the last digit (14 classes in alphabetical order).
REPORT = {
    "train": "0.0046875 0.018 0.0159375 0.05475 0.022375 0.161375 0.0380625 0.1489375 0.029875"
    " 0.320125 0.1560625 0.006 0.008625 0.02625",
    "val": "0.005 0.018 0.016 0.05475 0.0225 0.16125 0.038 0.149 0.03 0.32025 0.156 0.006 0.00875"
    " 0.02625",
}


def random_set(num_images: int, seed: int = 0) -> Dataset:
    """Return a data set with three classes of different frequency."""
    flags = np.random.default_rng(seed).random((num_images, 3)) < (0.5, 0.2, 0.1)
    return labelled(flags)


def shuffled(data: Dataset, seed: int) -> Dataset:
    """Return the same images and labels in another order of rows."""
    order = np.random.default_rng(seed).permutation(len(data))
    names = [data.names[i] for i in order]
    return Dataset(names, [Path(x) for x in names], data.targets_NC[order], data.class_names, "")


def names_of(parts: Split, data: Dataset) -> dict[str, set[str]]:
    return {part: {data.names[i] for i in rows} for part, rows in parts.parts.items()}


@pytest.fixture(scope="module")
def report_set(grigri: Path) -> Dataset:
    return dataset.load(grigri / "labels_20000.csv")


@pytest.fixture(scope="module")
def report_split(report_set: Dataset) -> Split:
    return split.stratify(report_set, 0.2, seed=0)


# ----------------------------------------------------------------------------------- stratify


@pytest.mark.parametrize("seed", [0, 1])
def test_the_frequencies_are_the_reports(
    report_set: Dataset, report_split: Split, seed: int
) -> None:
    parts = report_split if seed == 0 else split.stratify(report_set, 0.2, seed=seed)
    assert [len(parts.parts[p]) for p in ("train", "val")] == [16_000, 4_000]
    found = split.frequencies(parts, report_set)
    for part, printed in REPORT.items():
        assert found[part].tolist() == [float(word) for word in printed.split()]


def test_the_real_rows_may_be_in_any_order(report_set: Dataset, report_split: Split) -> None:
    other = shuffled(report_set, seed=5)
    expected = names_of(report_split, report_set)
    assert names_of(split.stratify(other, 0.2, seed=0), other) == expected


@pytest.mark.slow
def test_three_parts_of_the_real_labels(report_set: Dataset) -> None:
    parts = split.stratify(report_set, val=0.2, test=0.1, seed=0)
    sizes = {part: len(rows) for part, rows in parts.parts.items()}
    assert sizes == pytest.approx({"train": 14_000, "val": 4_000, "test": 2_000}, abs=2)
    rows = np.concatenate(list(parts.parts.values()))
    assert np.array_equal(np.sort(rows), np.arange(20_000))
    whole = report_set.targets_NC.mean(0)
    for part, found in split.frequencies(parts, report_set).items():
        # Within two images of the whole set's share; a random draw would be off by twenty.
        assert np.abs(found - whole).max() < 2 / sizes[part], part


def test_another_seed_deals_other_images() -> None:
    small = random_set(200)
    a, b = (split.stratify(small, 0.2, seed=s).parts["val"] for s in (0, 1))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("test_share", [0.0, 0.15])
def test_parts_are_disjoint_complete_ascending_and_repeatable(test_share: float) -> None:
    data = random_set(103)
    first = split.stratify(data, 0.25, test_share, seed=3)
    again = split.stratify(data, 0.25, test_share, seed=3)
    assert list(first.parts) == ["train", "val"] + ["test"] * bool(test_share)
    for part, rows in first.parts.items():
        assert np.array_equal(rows, again.parts[part])
        assert (np.diff(rows) > 0).all()
    assert sorted(np.concatenate(list(first.parts.values()))) == list(range(103))
    assert abs(len(first.parts["val"]) - 0.25 * 103) < 3
    assert abs(len(first.parts.get("test", [])) - test_share * 103) < 3


@pytest.mark.parametrize("seed", range(5))
def test_rows_may_be_in_any_order(seed: int) -> None:
    data = random_set(120)
    other = shuffled(data, seed)
    expected = names_of(split.stratify(data, 0.2, 0.1), data)
    assert names_of(split.stratify(other, 0.2, 0.1), other) == expected


def test_names_are_ordered_as_people_count() -> None:
    """So that im2, im10 (MIRFLICKR's order) and a file listing sorted by text give one split."""
    names = ["a", "im1", "im2", "im02", "im10", "im10b2", "im10b11", "x\u0662", "9" * 30]
    keys = [stratification._natural_key(name) for name in names]
    expected = ["9" * 30, "a", "im1", "im02", "im2", "im10", "im10b2", "im10b11", "x\u0662"]
    assert [name for _, name in sorted(zip(keys, names, strict=True))] == expected


def test_numpys_global_generator_is_left_alone() -> None:
    np.random.seed(42)
    before = np.random.get_state()
    split.stratify(random_set(50), 0.2, seed=7)
    after = np.random.get_state()
    assert np.array_equal(before[1], after[1]) and before[2:] == after[2:]


def test_numpys_global_generator_does_not_matter() -> None:
    np.random.seed(1)
    first = split.stratify(random_set(50), 0.2, seed=7).parts["val"]
    np.random.seed(2)
    assert np.array_equal(split.stratify(random_set(50), 0.2, seed=7).parts["val"], first)


def test_images_without_labels_are_dealt_out_too() -> None:
    flags = np.zeros((100, 2))
    flags[:20, 0] = 1
    parts = split.stratify(labelled(flags), 0.2)
    assert (parts.parts["val"] < 20).sum() == 4
    assert (parts.parts["val"] >= 20).sum() == 16


@pytest.mark.parametrize("num_images", range(1, 9))
def test_few_images_give_a_split_or_a_grigri_error(num_images: int) -> None:
    data = labelled(np.arange(num_images * 2).reshape(-1, 2) % 3 > 0)
    for val, test in ((0.2, 0.0), (0.5, 0.0), (0.2, 0.2), (0.8, 0.1)):
        try:
            parts = split.stratify(data, val, test).parts
        except GrigriError as e:
            assert "part" in str(e) or "image" in str(e)
        else:
            assert len(parts["train"]) >= 2 and len(parts["val"]) >= 1
            assert len(parts) == 2 + bool(test)
            assert sum(map(len, parts.values())) == num_images


def test_a_part_without_an_image_is_an_error() -> None:
    with pytest.raises(GrigriError, match=r"val part of 2 images is empty.*--val"):
        split.stratify(random_set(2), 0.2)


# --------------------------------------------------------------------------------- split files


def test_every_beginning_of_a_nested_order_is_stratified() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((1000, 4)) < (0.02, 0.5, 0.1, 0.3)).astype(np.float32)
    order = split.nested_order(targets, seed=3)
    assert sorted(order) == list(range(1000))
    rarest = targets[:, 0]
    for n in (50, 100, 300, 700):
        assert abs(rarest[order[:n]].sum() - n * rarest.mean()) <= 1
        assert np.abs(targets[order[:n]].mean(0) - targets.mean(0)).max() < 0.06
    assert order.tolist() == split.nested_order(targets, seed=3).tolist()
    assert order.tolist() != split.nested_order(targets, seed=4).tolist()


def test_a_split_file_gives_the_split_back(tmp_path: Path) -> None:
    names = [f"ünï {i}\u2028.jpg" for i in range(40)]
    data = labelled(random_set(40).targets_NC, names)
    parts = split.stratify(data, 0.2, 0.1)
    file = tmp_path / "split.json"
    file.write_text(split.to_json(parts, data), encoding="utf-8")
    back = split.read(file, data)
    assert list(back.parts) == ["train", "val", "test"]
    for part, rows in parts.parts.items():
        assert np.array_equal(back.parts[part], rows)


def test_a_split_file_holds_for_other_rows(tmp_path: Path) -> None:
    data = random_set(40)
    parts = split.stratify(data, 0.2)
    (tmp_path / "s.json").write_text(split.to_json(parts, data))
    other = shuffled(data, seed=1)
    assert names_of(split.read(tmp_path / "s.json", other), other) == names_of(parts, data)


def test_images_that_the_file_does_not_name_are_in_no_part(tmp_path: Path) -> None:
    data = random_set(10)
    text = json.dumps({"parts": {"val": ["im3.jpg"], "train": ["im2.jpg", "im1.jpg"]}})
    (tmp_path / "s.json").write_text(text)
    back = split.read(str(tmp_path / "s.json"), data)
    assert {part: rows.tolist() for part, rows in back.parts.items()} == {
        "train": [0, 1],
        "val": [2],
    }


def of_parts(**parts: object) -> str:
    return json.dumps({"parts": parts})


TWO = ["im1.jpg", "im2.jpg"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("", "not written by"),
        ("{", "not written by"),
        (b"\xff\xfe", "not UTF-8"),
        ("[]", "not written by"),
        ("null", "not written by"),
        ("[" * 20_000, "not written by"),
        ("{}", "not written by"),
        ('{"parts": null}', "not written by"),
        ('{"parts": ["train", "val"]}', "not written by"),
        (of_parts(train=TWO), "train, val and perhaps test"),
        (of_parts(val=TWO), "train, val and perhaps test"),
        (of_parts(train=TWO, val=["im3.jpg"], dev=[]), "train, val and perhaps test"),
        (of_parts(train=TWO, val=7), "not written by"),
        (of_parts(train=TWO, val=[3]), "list of image names"),
        (of_parts(train=TWO, val=[["im3.jpg"]]), "list of image names"),
        (of_parts(train=TWO, val="im3.jpg"), "list of image names"),
        (of_parts(train=TWO, val={"im3.jpg": 1}), "list of image names"),
        (of_parts(train=TWO, val=["im99.jpg"]), "im99.jpg is in val, but not in a set"),
        (of_parts(train=TWO, val=["im2.jpg"]), "im2.jpg is in train and val"),
        (of_parts(train=[*TWO, "im1.jpg"], val=["im3.jpg"]), "im1.jpg is in train and train"),
        (of_parts(train=TWO, val=[]), "val part"),
        (of_parts(train=[], val=TWO), "train part"),
        (of_parts(train=["im1.jpg"], val=["im3.jpg"]), "train part has only one image"),
        (of_parts(train=TWO, val=["im3.jpg"], test=[]), "test part"),
    ],
    ids=lambda v: "" if v is None else ascii(v)[:60],
)
def test_a_wrong_split_file_is_an_error(
    tmp_path: Path, content: str | bytes | None, words: str
) -> None:
    file = tmp_path / "split.json"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(GrigriError) as caught:
        split.read(file, random_set(10))
    message = str(caught.value)
    assert words in message
    assert str(file) in message
    assert "\n" not in message


# ------------------------------------------------------------ what a split file does not name


def test_rows_that_a_split_file_does_not_name_are_said(tmp_path: Path) -> None:
    data = random_set(20)
    old = data.only(np.arange(15))
    file = tmp_path / "s.json"
    file.write_text(split.to_json(split.stratify(old, 0.2), old))
    said = f"5 images are in no part of split file {file} and used nowhere: im16.jpg, im17.jpg"
    assert split.read(file, data).notes[0] == said + ", im18.jpg and 2 more"
    assert not any("no part" in note for note in split.read(file, old).notes)
    one_more = data.only(np.arange(16))
    note = f"1 image is in no part of split file {file} and used nowhere: im16.jpg"
    assert split.read(file, one_more).notes[0] == note


def lists(folder: Path, **parts: list[str]) -> Path:
    for part, names in parts.items():
        (folder / f"{part}.txt").write_text("\n".join(names))
    return folder


def test_a_folder_of_names_is_a_split(tmp_path: Path) -> None:
    data = random_set(10)
    lists(tmp_path, train=["im1", "im3.jpg", "im4"], valid=["im2"], test=["im10", "im5"])
    found = split.choose(data, file=tmp_path)
    assert {part: rows.tolist() for part, rows in found.parts.items()} == {
        "train": [0, 2, 3],
        "val": [1],
        "test": [4, 9],
    }
    assert found.notes[0] == f"split folder {tmp_path} is used: 3 train, 1 val, 2 test"
    assert found.notes[1].startswith("4 images are in no part of that split and used nowhere: im6")


def test_a_folder_without_names_for_validation_gets_some(tmp_path: Path) -> None:
    data = random_set(50)
    lists(tmp_path, train=data.names[:40], test=data.names[40:])
    found = split.choose(data, file=tmp_path).parts
    assert {part: len(rows) for part, rows in found.items()} == {"train": 32, "val": 8, "test": 10}


def test_an_empty_list_of_names_to_train_on_is_an_error(tmp_path: Path) -> None:
    lists(tmp_path, train=[], val=["im1"])
    with pytest.raises(GrigriError, match=r"split folder .*no image to train on, only 1 val"):
        split.read(tmp_path, random_set(10))


# ------------------------------------------------------------------- what the data come with


def with_parts(*parts: str, seed: int = 0) -> Dataset:
    return labelled(matrix(len(parts), 3, 2, 0, seed), parts=list(parts))


def test_the_datas_own_split_is_used_and_said() -> None:
    data = with_parts(*["train"] * 6, "val", "val", "test", "")
    found = split.choose(data)
    assert {part: rows.tolist() for part, rows in found.parts.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "val": [6, 7],
        "test": [8],
    }
    assert found.asked is None
    assert found.notes[0] == "1 image is in no part of that split and used nowhere: im10.jpg"


def test_a_missing_validation_part_is_taken_from_train_and_said() -> None:
    data = with_parts(*["train"] * 100, *["test"] * 50)
    found = split.choose(data)
    sizes = {part: len(rows) for part, rows in found.parts.items()}
    assert sizes == {"train": 80, "val": 20, "test": 50}
    assert found.parts["test"].tolist() == list(range(100, 150))
    expected = split.stratify(data.only(np.arange(100)), 0.2).parts["val"]
    assert np.array_equal(found.parts["val"], expected)
    assert "it has no val part: 20 of the 100 images of train are taken for it" in found.notes[0]


def test_train_and_val_are_enough() -> None:
    found = split.choose(with_parts(*["train", "val"] * 20))
    assert list(found.parts) == ["train", "val"]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("parts", "counts"),
    [(["val"] * 4, "4 val"), (["test"] * 4, "4 test"), (["", "val", "test", ""], "1 val, 1 test")],
)
def test_a_split_without_train_is_an_error(parts: list[str], counts: str) -> None:
    with pytest.raises(GrigriError) as caught:
        split.choose(with_parts(*parts))
    words = f"a set: the data's own split has no image to train on, only {counts}"
    assert words in str(caught.value)
    assert "--split-column none" in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "words"), [({"val": 0.2}, "--val 0.2"), ({"test": 0.0}, "--test 0.0")]
)
def test_shares_beside_the_datas_own_split_are_an_error(asked: dict, words: str) -> None:
    with pytest.raises(GrigriError) as caught:
        split.choose(with_parts(*["train", "val"] * 20), **asked)
    message = str(caught.value)
    assert f"the data come with a split, so {words} does not go with them" in message
    assert "--split-column none" in message and "\n" not in message


def test_a_split_file_goes_before_the_datas_own_split(tmp_path: Path) -> None:
    data = with_parts(*["train", "train", "val"] * 20)
    file = tmp_path / "s.json"
    own = split.choose(data)
    file.write_text(split.to_json(own, data))
    assert split.choose(data, file=file).notes == ()  # it is the same
    other = split.Split({"train": own.parts["val"], "val": own.parts["train"]})
    file.write_text(split.to_json(other, data))
    found = split.choose(data, file=file)
    assert np.array_equal(found.parts["train"], own.parts["val"])
    assert found.notes == (
        f"the data come with another split, which is not used, since --split names {file}",
    )


def test_groups_that_a_given_split_tears_are_said() -> None:
    data = labelled(
        matrix(12, 2, 1, 0, 0),
        parts=["train", "train", "val"] * 4,
        groups=np.array([0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 6]),
    )
    note = "2 groups have images in several parts: a score on them flatters"
    assert note in split.choose(data).notes


def test_shares_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(GrigriError, match="--val and --test together leave nothing to train on"):
        split.choose(random_set(50), test=0.8)


# ----------------------------------------------------------------------- what a split lacks


def test_classes_that_are_not_in_every_part_are_named_with_the_reason() -> None:
    targets_NC = np.zeros((40, 5), dtype=bool)
    targets_NC[::2, 0] = targets_NC[1::2, 1] = True
    targets_NC[7, 2] = targets_NC[[3, 4], 3] = True
    parts = split.stratify(labelled(targets_NC), 0.2, 0.2)
    absent = split.absences(parts, labelled(targets_NC))
    assert [(a.class_name, a.num_images, a.parts, a.why) for a in absent] == [
        ("class2", 1, ("val", "test"), "only 1 image"),
        ("class3", 2, ("test",), "only 2 images"),
        ("class4", 0, ("train", "val", "test"), "no image has it"),
    ]
    assert parts.notes == ()
    assert split.absences_in_words(parts, labelled(targets_NC)) == (
        "2 classes are not in every part: class2 (not in val and test: only 1 image), class3 (not"
        " in test: only 2 images)",
    )


def test_a_class_that_no_split_has_on_both_sides_is_named() -> None:
    circle = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    data = labelled(circle)
    (absent,) = split.absences(split.stratify(data, 0.5), data)
    assert absent.why == "its images are needed for other classes"


def test_a_class_that_a_given_part_lacks_is_named() -> None:
    data = labelled(np.array([[1, 0], [1, 0], [1, 1], [1, 1]]), parts=["train", "train", "val", ""])
    (absent,) = split.absences(split.choose(data), data)
    assert (absent.class_name, absent.parts) == ("class1", ("train",))
    data = labelled(np.array([[1, 0], [1, 0], [1, 1], [1, 1]]), parts=["train"] * 2 + ["val"] * 2)
    (absent,) = split.absences(split.choose(data), data)
    assert absent.why == "the split is given"


def test_a_share_that_cannot_be_met_is_said() -> None:
    """Classes of two images each, and one label an image: half of the images have to be in val."""
    data = labelled(np.repeat(np.eye(30), 2, axis=0))
    parts = split.stratify(data, 0.2)
    assert {part: len(rows) for part, rows in parts.parts.items()} == {"train": 30, "val": 30}
    assert parts.notes == (
        "val has 50.0% of 60 images instead of 20.0%, so that every class is in each part",
    )


# ------------------------------------------------------------------------------------- limited


def test_limited_draws_from_every_part() -> None:
    parts = split.stratify(random_set(200), 0.2, 0.1, seed=0)
    few = parts.limited(50, seed=1)
    assert {part: len(rows) for part, rows in few.parts.items()} == {
        part: round(len(rows) / 4) for part, rows in parts.parts.items()
    }
    for part, rows in few.parts.items():
        assert (np.diff(rows) > 0).all()
        assert set(rows) < set(parts.parts[part])


def test_limited_is_random_and_repeatable() -> None:
    parts = split.stratify(random_set(200), 0.2)
    first = parts.limited(50, seed=1).parts["train"]
    assert np.array_equal(parts.limited(50, seed=1).parts["train"], first)
    assert not np.array_equal(parts.limited(50, seed=2).parts["train"], first)


@pytest.mark.parametrize("num_images", [200, 201, 10**9])
def test_limited_to_all_is_the_split_itself(num_images: int) -> None:
    parts = split.stratify(random_set(200), 0.2)
    for part, rows in parts.limited(num_images, seed=0).parts.items():
        assert np.array_equal(rows, parts.parts[part])


def test_limited_leaves_no_part_empty() -> None:
    parts = split.stratify(random_set(200), 0.2, 0.1)
    few = parts.limited(3, seed=0)
    assert {name: len(rows) for name, rows in few.parts.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    with pytest.raises(GrigriError, match=r"only one image.*raise --limit"):
        parts.limited(2, seed=0)
