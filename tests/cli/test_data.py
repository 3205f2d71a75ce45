"""data check and data split on small data."""

import shutil

import pytest
from PIL import Image
from small_set import CLASSES, labels_of


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
