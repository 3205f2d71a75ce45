from pathlib import Path

import numpy as np
import pytest

from grigri_fast.data import dataset, groups, split
from grigri_fast.errors import GrigriError

NAMES = [f"{i}.jpg" for i in range(6)]


def of(folder: Path, text: str, before: list[int] | None = None) -> list[int]:
    (folder / "g.csv").write_text(text)
    of_rows = None if before is None else np.array(before)
    return groups.joined(folder / "g.csv", NAMES, of_rows)[0].tolist()


def test_pairs_and_groups_are_joined(tmp_path: Path) -> None:
    pairs = "first,second,distance\n0.jpg,1.jpg,3\n4.jpg,1.jpg,9\n2.jpg,3.jpg,1\n"
    numbers = of(tmp_path, pairs)
    assert numbers[0] == numbers[1] == numbers[4] and numbers[2] == numbers[3]
    assert len({numbers[0], numbers[2], numbers[5]}) == 3
    joined = of(tmp_path, pairs, before=[0, 1, 2, 3, 4, 2])  # 2 and 5 are together already
    assert joined[2] == joined[3] == joined[5] and len(set(joined)) == 2
    named = of(tmp_path, "image,burst\n0.jpg,a\n1.jpg,\n5.jpg,a\n2.jpg,b\n")
    assert named[0] == named[5] and len(set(named)) == 5


@pytest.mark.parametrize(
    "text, says",
    [
        ("first,second\n0.jpg,9.jpg\n", "line 2: no image is named '9.jpg'"),
        ("image,group\nx,1\n", "line 2: no image is named 'x'"),
        ("image,burst,day\n0.jpg,1,2\n", "it has image, burst, day"),
        ("image\n0.jpg\n", "expected a header"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(GrigriError) as error:
        of(tmp_path, text)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_split_keeps_them_together(tmp_path: Path) -> None:
    rows = [f"{i}.jpg,{'cat' if i % 3 else 'dog'}" for i in range(60)]
    (tmp_path / "l.csv").write_text("image,labels\n" + "\n".join(rows))
    pairs = [f"{i}.jpg,{i + 30}.jpg" for i in range(30)]
    (tmp_path / "near.csv").write_text("first,second\n" + "\n".join(pairs))
    data = dataset.load(tmp_path / "l.csv", groups=tmp_path / "near.csv")
    assert "60 images stay together in 30 groups, by near.csv" in data.notes
    part_of = {
        row: part for part, rows in split.choose(data).parts.items() for row in rows.tolist()
    }
    assert all(part_of[i] == part_of[i + 30] for i in range(30))
    apart = split.choose(dataset.load(tmp_path / "l.csv")).parts["val"]
    assert {(row + 30) % 60 for row in apart.tolist()} != set(apart.tolist())
