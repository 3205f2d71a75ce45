from pathlib import Path

import pytest

from grigri_fast.data import name_lists
from grigri_fast.errors import GrigriError

NAMES = ["a/im1.jpg", "a/im2.jpg", "b/im1.jpg", "b/im3.PNG", "b/old.im4.jpg", "b/no-suffix"]


def written(folder: Path, **lists: str) -> Path:
    for part, text in lists.items():
        (folder / f"{part}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("called", ["val", "valid", "validation", "dev", "VAL"])
def test_each_list_is_a_part(tmp_path: Path, called: str) -> None:
    lists = {"train": "a/im1.jpg\na/im2.jpg\n", called: "b/im3.PNG", "test": "\n b/im1.jpg \r\n\n"}
    written(tmp_path, **lists, trainval="nobody reads this")
    found = name_lists.read(tmp_path, NAMES, "photos")
    assert found == ["train", "train", "test", "val", "", ""]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("a/im1.jpg", 0),
        ("a/im1", 0),
        ("./a/im2.jpg", 1),
        ("a\\im2.jpg", 1),
        ("im2.jpg", 1),
        ("im2", 1),
        ("/somewhere/else/im2.jpg", 1),
        ("im3", 3),
        ("b/old.im4", 4),
        ("old.im4", 4),
        ("no-suffix", 5),
    ],
)
def test_a_name_may_be_without_folders_and_suffix(tmp_path: Path, line: str, row: int) -> None:
    found = name_lists.read(written(tmp_path, train=line), NAMES, "photos")
    assert [i for i, part in enumerate(found) if part] == [row]


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({}, "no train.txt; a folder of names has train.txt, val.txt"),
        ({"val": "im2"}, "no train.txt"),
        ({"train": "im2", "val": "im3", "dev": "im3"}, "dev.txt and val.txt are the same part"),
        ({"train": "im2\nim9"}, "train.txt line 2: 'im9' is not the name of an image in photos"),
        ({"train": "old"}, "'old' is not the name"),
        ({"train": "im1.jpg"}, "can be a/im1.jpg and b/im1.jpg; write the whole name"),
        ({"train": "im2", "val": "a/im2.jpg"}, "val.txt line 1: 'a/im2.jpg' is in train already"),
        ({"train": "im2\nim2"}, "line 2: 'im2' is in train already"),
    ],
    ids=str,
)
def test_wrong_lists_are_one_line(tmp_path: Path, lists: dict[str, str], words: str) -> None:
    with pytest.raises(GrigriError) as caught:
        name_lists.read(written(tmp_path, **lists), NAMES, "photos")
    message = str(caught.value)
    assert words in message and str(tmp_path) in message and "\n" not in message


def test_a_list_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GrigriError, match=r"train.txt.*UTF-8"):
        name_lists.read(tmp_path, NAMES, "photos")
