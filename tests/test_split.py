import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from grigri_fast import dataset, split
from grigri_fast.dataset import Dataset
from grigri_fast.errors import GrigriError

# The class frequencies that the 2020 report prints for its 80/20 split.
REPORT_TRAIN = """0.0046875 0.018 0.0159375 0.05475 0.022375 0.161375 0.0380625 0.1489375 0.029875
                  0.320125 0.1560625 0.006 0.008625 0.02625"""
REPORT_VAL = """0.005 0.018 0.016 0.05475 0.0225 0.16125 0.038 0.149 0.03 0.32025 0.156 0.006
                0.00875 0.02625"""


def made_up(num_images: int = 400, num_classes: int = 6, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    targets_NC = (rng.random((num_images, num_classes)) < rng.uniform(0.05, 0.3, num_classes)) * 1.0
    names = [f"im{i}.jpg" for i in range(num_images)]
    paths = [Path(name) for name in names]
    classes = [f"c{i}" for i in range(num_classes)]
    return Dataset(names, paths, targets_NC.astype(np.float32), classes, "made up")


def shuffled(data: Dataset, seed: int) -> Dataset:
    order = np.random.default_rng(seed).permutation(len(data))
    return dataclasses.replace(
        data,
        names=[data.names[i] for i in order],
        paths=[data.paths[i] for i in order],
        targets_NC=data.targets_NC[order],
    )


def names_of(parts: split.Split, data: Dataset) -> dict[str, set[str]]:
    return {part: {data.names[i] for i in rows} for part, rows in parts.parts.items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_reports_frequencies_to_the_last_digit(grigri: Path, seed: int) -> None:
    data = dataset.load(grigri / "labels_20000.csv")
    found = split.frequencies(split.stratify(data, val=0.2, seed=seed), data)
    for part, printed in (("train", REPORT_TRAIN), ("val", REPORT_VAL)):
        assert [repr(float(x)) for x in found[part]] == printed.split()


def test_parts_do_not_depend_on_the_order_of_the_rows() -> None:
    data = made_up()
    first = names_of(split.stratify(data, 0.2, 0.1), data)
    for seed in range(3):
        other = shuffled(data, seed)
        assert names_of(split.stratify(other, 0.2, 0.1), other) == first


def test_the_seed_decides() -> None:
    data = made_up()
    one, again, other = (names_of(split.stratify(data, 0.2, seed=s), data) for s in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize("val, test", [(0.2, 0.0), (0.2, 0.1), (0.1, 0.3), (0.5, 0.4)])
def test_parts_are_disjoint_complete_and_alike(val: float, test: float) -> None:
    data = made_up(1000)
    parts = split.stratify(data, val, test).parts
    assert list(parts) == (["train", "val", "test"] if test else ["train", "val"])
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1000))
    shares = {"val": val, "test": test, "train": 1 - val - test}
    whole = data.targets_NC.mean(0)
    for name, rows in parts.items():
        assert (np.diff(rows) > 0).all()
        assert abs(len(rows) - shares[name] * 1000) <= 10
        assert np.abs(data.targets_NC[rows].mean(0) - whole).max() < 0.02


def test_numpys_global_generator_is_left_as_it_was() -> None:
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    split.stratify(made_up(60), 0.2)
    assert (np.random.random(3) == expected).all()


def test_natural_order() -> None:
    names = ["im10.jpg", "im2.jpg", "im02.jpg", "b/im1.jpg", "7.jpg", "é.jpg"]
    ordered = sorted(names, key=split._natural_key)
    assert ordered.index("im2.jpg") < ordered.index("im10.jpg")
    assert len({split._natural_key(n) for n in names}) == len(names)


def test_too_small_a_set_is_refused() -> None:
    with pytest.raises(GrigriError, match="part of 3 images is empty"):
        split.stratify(made_up(3), 0.01)
    with pytest.raises(GrigriError):
        split.stratify(made_up(2), 0.5)


def test_limited_draws_from_every_part() -> None:
    data = made_up(1000)
    parts = split.stratify(data, 0.2, 0.1)
    fewer = parts.limited(100, seed=0)
    assert {k: len(v) for k, v in fewer.parts.items()} == {"train": 70, "val": 20, "test": 10}
    for name, rows in fewer.parts.items():
        assert set(rows) <= set(parts.parts[name])
    again, other = parts.limited(100, seed=0), parts.limited(100, seed=1)
    assert (again.parts["train"] == fewer.parts["train"]).all()
    assert (other.parts["train"] != fewer.parts["train"]).any()
    assert parts.limited(5000, seed=0) is parts


def test_a_split_file_comes_back_for_any_row_order(tmp_path: Path) -> None:
    data = made_up()
    parts = split.stratify(data, 0.2, 0.1)
    file = tmp_path / "split.json"
    file.write_text(split.to_json(parts, data))
    other = shuffled(data, 5)
    assert names_of(split.read(file, other), other) == names_of(parts, data)


@pytest.mark.parametrize(
    "content, says",
    [
        ("", "not written by"),
        ("[]", "not written by"),
        ("[" * 100_000, "not written by"),
        ('{"parts": 3}', "not written by"),
        ('{"parts": {"train": ["im0.jpg"]}}', "must be train, val"),
        ('{"parts": {"train": [], "val": [], "dev": []}}', "must be train, val"),
        ('{"parts": {"train": [1], "val": []}}', "must be a list of image names"),
        ({"train": ["im0.jpg", "im1.jpg"], "val": ["no.jpg"]}, "no.jpg is in val, but not in"),
        ({"train": ["im0.jpg", "im1.jpg"], "val": ["im0.jpg"]}, "im0.jpg is in train and val"),
        ({"train": ["im0.jpg", "im1.jpg"], "val": []}, "val part of 2 images is empty"),
        ({"train": ["im0.jpg"], "val": ["im1.jpg"]}, "only one image"),
    ],
    ids=lambda x: str(x)[:50],
)
def test_wrong_split_files(tmp_path: Path, content: str | dict, says: str) -> None:
    file = tmp_path / "split.json"
    file.write_text(content if isinstance(content, str) else json.dumps({"parts": content}))
    with pytest.raises(GrigriError) as error:
        split.read(file, made_up(10))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_split_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="No such file"):
        split.read(tmp_path / "nowhere.json", made_up(10))
