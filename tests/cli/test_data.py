"""data check and data split on small data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_set import CLASSES, labels_of

from grigri_fast.cli import console


def test_data_check_counts(cli, photos) -> None:
    shutil.copy(photos / "images" / "im3.jpg", photos / "images" / "im100.jpg")
    Image.new("L", (20, 10)).save(photos / "images" / "im101.jpg")
    code, out, err = cli("data", "check", photos)
    assert (code, err) == (0, "")
    lines = {line[:25].strip(): line[25:].strip() for line in out.splitlines()}
    assert lines["images"] == "50" and lines["classes"] == "3"
    assert lines["images without label"] == "26 (52.00%)"
    assert lines["grayscale"] == "1" and lines["exact duplicates"] == "1"
    assert lines["sizes"] == "40x32 px (49), 20x10 px (1)"
    assert "im100.jpg = " in out or "= " + str(photos / "images" / "im100.jpg") in out
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:3] in CLASSES}
    for name in CLASSES:
        count = sum(name in labels_of(row) for row in range(48))
        assert table[name] == [str(count), f"{count / 50:.2%}"]


def test_data_check_names_every_file_that_cannot_be_used(cli, photos) -> None:
    (photos / "images" / "im7.jpg").write_bytes(b"")
    (photos / "images" / "im9.jpg").write_text("hello")
    code, out, err = cli("data", "check", photos)
    assert code == 1 and err == "error: 2 of 48 files cannot be used\n"
    assert f"{photos / 'images' / 'im7.jpg'}: empty file" in out
    assert f"{photos / 'images' / 'im9.jpg'}: not a JPEG" in out


@pytest.mark.slow
def test_data_split_prints_the_reports_figures(cli, grigri, tmp_path) -> None:
    code, out, err = cli("data", "split", grigri / "labels_20000.csv", "--val", "0.2")
    assert (code, err) == (0, "")
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert table["images"] == ["16000", "4000"]
    assert table["baby"] == ["0.0046875", "0.005"]
    assert table["people"] == ["0.320125", "0.32025"]
    assert table["tree"] == ["0.02625", "0.02625"]
    assert cli("data", "split", grigri / "labels_20000.csv", "--val", "0.2")[1] == out


def test_data_split_prints_every_figure_of_the_report(cli, grigri) -> None:
    _, out, _ = cli("data", "split", grigri / "labels_20000.csv")
    rows = [line.split() for line in out.splitlines() if len(line.split()) == 3]
    above = ("class", "images", "share", "asked")
    train, val = zip(*(row[1:] for row in rows if row[0] not in above), strict=True)
    assert " ".join(train) == (
        "0.0046875 0.018 0.0159375 0.05475 0.022375 0.161375 0.0380625 0.1489375 0.029875 "
        "0.320125 0.1560625 0.006 0.008625 0.02625"
    )
    assert " ".join(val) == (
        "0.005 0.018 0.016 0.05475 0.0225 0.16125 0.038 0.149 0.03 0.32025 0.156 0.006 "
        "0.00875 0.02625"
    )


def test_data_split_shows_the_parts_side_by_side(cli, photos) -> None:
    _, out, _ = cli("data", "split", photos, "--val=0.25", "--test=0.25", "--seed=1")
    assert ["class", "train", "val", "test"] in [line.split() for line in out.splitlines()]
    assert ["images", "24", "12", "12"] in [line.split() for line in out.splitlines()]


def sparse_labels(folder: Path) -> Path:
    """Write 500 photographs, each with one of 40 objects and one of 12 colours."""
    rng = np.random.default_rng(0)
    rows = zip(range(500), rng.integers(40, size=500), rng.integers(12, size=500), strict=True)
    file = folder / "labels.csv"
    lines = [f"x{i:04}.jpg,object{a:02}|colour{b:02}\n" for i, a, b in rows]
    file.write_text("image,labels\n" + "".join(lines))
    return file


@pytest.mark.parametrize(
    ("shares", "sizes"), [(["--val=0.2"], [400, 100]), (["--val=0.1", "--test=0.1"], [400, 50, 50])]
)
def test_data_split_shows_what_was_asked_and_what_came(
    cli, tmp_path, monkeypatch, shares, sizes
) -> None:
    monkeypatch.setattr(console.stdout, "width", 80)
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("data", "split", sparse_labels(Path()), *shares)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert rows["images"] == list(map(str, sizes))
    assert rows["share"] == rows["asked"] == [str(size / 500) for size in sizes]
    for c in range(40):
        assert "0.0" not in rows[f"object{c:02}"]
    assert "Not in every part" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_data_split_names_the_classes_that_a_part_lacks(cli, tmp_path) -> None:
    file = tmp_path / "labels.csv"
    lines = [f"x{i}.jpg,{'cat' if i % 2 else 'dog'}{'|owl' if i == 3 else ''}" for i in range(40)]
    file.write_text("image,labels\n" + "\n".join(lines))
    _, out, _ = cli("data", "split", file)
    assert "Not in every part\n  owl: not in val (only 1 image)\n" in out


def test_data_split_shows_the_datas_own_split(cli, tmp_path) -> None:
    file = tmp_path / "labels.csv"
    lines = [f"x{i}.jpg,{'cat' if i % 2 else 'dog'},{int(i > 15)}" for i in range(20)]
    file.write_text("image,labels,is_valid\n" + "\n".join(lines))
    code, out, err = cli("data", "split", file, "--out", tmp_path / "s.json")
    assert (code, err) == (0, "")
    assert "the data come with a split: 16 train, 4 val" in out
    assert len(json.loads((tmp_path / "s.json").read_text())["parts"]["val"]) == 4
    assert "asked" not in out
    code, out, err = cli("data", "split", file, "--val", "0.2")
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "the data come with a split, so --val 0.2 does not go" in err
    code, out, err = cli("data", "split", file, "--val", "0.2", "--split-column", "none")
    assert (code, err) == (0, "") and "come with" not in out
    assert "columns not used: 'is_valid'" in out and ["asked", "0.8", "0.2"] in map(
        str.split, out.splitlines()
    )


def test_data_split_keeps_groups_together(cli, tmp_path) -> None:
    file = tmp_path / "labels.csv"
    lines = [f"x{i}.jpg,{'cat' if i % 3 else 'dog'},p{i // 4}" for i in range(80)]
    file.write_text("image,labels,patient_id\n" + "\n".join(lines))
    assert cli("data", "split", file, "--out", tmp_path / "s.json")[0] == 0
    parts = json.loads((tmp_path / "s.json").read_text())["parts"]
    patients = [{int(name[1:-4]) // 4 for name in parts[part]} for part in ("train", "val")]
    assert not patients[0] & patients[1] and len(parts["val"]) == 16
    one_by_one = cli("data", "split", file, "--group-column", "none")
    assert one_by_one[0] == 0 and "columns not used: 'patient_id'" in one_by_one[1]
