"""The file of predict --out: whole at any time, gone on with, and never lost."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from grigri_fast.errors import GrigriError, Interrupted
from grigri_fast.inference import prediction_file
from grigri_fast.inference.prediction import Prediction
from grigri_fast.inference.prediction_file import PredictionFile, note_of
from grigri_fast.runtime.compute import Compute

CLASSES = ["cat", 'a "dog", or\nsky']
MADE_BY = {"model": "ab12", "--amp": "fp32"}
# Names that CSV and JSON must quote, one of them not UTF-8.
PATHS = [Path(os.fsdecode(name)) for name in (b'a "1", 2.jpg', b"caf\xe9.jpg", b"c\nd.jpg")]
PATHS += [Path(f"photos/{i}.jpg") for i in range(27)]


def of(paths: list[Path]) -> list[Prediction]:
    """Return predictions that tell images apart; every fourth file is bad."""
    predictions = []
    for path in paths:
        i = PATHS.index(path) if path in PATHS else 99
        if i % 4 == 3:
            predictions.append(Prediction(path, [], {}, f"bad, number {i}"))
        else:
            p = dict(zip(CLASSES, (i / 100, 1 - i / 100), strict=True))
            predictions.append(Prediction(path, CLASSES[: i % 3], p))
    return predictions


def write(
    out: Path,
    paths: list[Path] = PATHS,
    stop_at: int = -1,
    resume: bool = False,
    made_by: dict = MADE_BY,
) -> Path:
    """Write a file in parts of 5 images; stop by Ctrl-C when that many are in it."""
    with PredictionFile(out, CLASSES, made_by, paths, resume) as file:
        while len(file.left):
            if file.progress.images == stop_at:
                raise KeyboardInterrupt
            file.add(of(list(file.left[:5])))
            file.left = file.left[5:]
        file.finish()
    return out


def images_in(out: Path) -> list[str]:
    """Return the images that a file of whole rows has."""
    text = out.read_text(errors="surrogateescape")
    if out.suffix == ".json":
        return [one["image"] for one in json.loads(text)]
    rows = list(csv.DictReader(text.splitlines(keepends=True), strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    return [row["image"] for row in rows]


def names_beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


@pytest.fixture(params=["p.csv", "p.json"])
def out(request, tmp_path: Path) -> Path:
    return tmp_path / "out" / request.param


@pytest.fixture
def whole(out: Path) -> bytes:
    """Return what an uninterrupted file has."""
    out.parent.mkdir()
    content = write(out).read_bytes()
    assert images_in(out) == list(map(str, PATHS)) and names_beside(out) == [out.name]
    out.unlink()
    return content


def test_it_is_whole_rows_at_any_time_and_ends_as_if_never_stopped(out, whole) -> None:
    for stop_at in (5, 20):
        with pytest.raises(Interrupted) as ended:
            write(out, stop_at=stop_at, resume=stop_at > 5)
        assert ended.value.signum == 2
        assert f"first {stop_at} images: the same command with --resume" in ended.value.advice
        assert images_in(out) == list(map(str, PATHS[:stop_at]))
        assert names_beside(out) == [out.name, note_of(out).name]
    with PredictionFile(out, CLASSES, MADE_BY, PATHS, resume=True) as file:
        num_bad = sum(bool(p.error) for p in of(PATHS[:20]))
        assert (file.progress.images, file.progress.errors) == (20, num_bad)
        assert file.progress.first_error == "photos/0.jpg: bad, number 3"
        for first in range(20, 30, 5):
            file.add(of(PATHS[first : first + 5]))
            assert images_in(out) == list(map(str, PATHS[: first + 5]))
        file.finish()
    assert out.read_bytes() == whole and names_beside(out) == [out.name]


@pytest.mark.parametrize("stored_every_s", [0.0, 1000.0])
@pytest.mark.parametrize("is_written", [0, 1, 60, None])
def test_a_kill_in_the_middle_of_a_write(
    out, whole, monkeypatch, stored_every_s: float, is_written: int | None
) -> None:
    monkeypatch.setattr(prediction_file, "_STORE_EVERY_S", stored_every_s)
    pwrite, writes = os.pwrite, []

    def cut(descriptor: int, data: bytes, place: int) -> int:
        writes.append(place)
        if len(writes) < 4:  # the head and two parts
            return pwrite(descriptor, data, place)
        pwrite(descriptor, data[:is_written], place)
        os._exit(9)

    child = os.fork()
    if not child:
        os.pwrite = cut
        write(out)
    assert os.waitpid(child, 0)[1] == 9 << 8
    if is_written == 0:
        assert images_in(out) == list(map(str, PATHS[:10]))
    write(out, resume=True)
    assert out.read_bytes() == whole and names_beside(out) == [out.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, os.strerror(28))])
def test_what_ends_in_the_middle_of_a_write_leaves_whole_rows(
    out, whole, monkeypatch, error: BaseException
) -> None:
    pwrite, writes = os.pwrite, []

    def fails(descriptor: int, data: bytes, place: int) -> int:
        writes.append(place)
        if len(writes) != 4:
            return pwrite(descriptor, data, place)
        pwrite(descriptor, data[:60], place)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fails)
        with pytest.raises((Interrupted, GrigriError)) as raised:
            write(out)
    says = f"{out} has the first 10 images: the same command with --resume goes on"
    if isinstance(raised.value, Interrupted):
        assert raised.value.advice == says
    else:
        says = f"{out}: cannot be written: No space left on device; {says}"
        assert str(raised.value) == says
    assert images_in(out) == list(map(str, PATHS[:10]))
    write(out, resume=True)
    assert out.read_bytes() == whole


def test_a_finished_file_stays_until_the_new_one_is_finished(out, whole) -> None:
    out.write_text("precious")
    with pytest.raises(Interrupted) as ended:
        write(out, stop_at=0)
    assert ended.value.advice == ""
    assert names_beside(out) == [out.name] and out.read_text() == "precious"
    with pytest.raises(Interrupted):
        write(out, stop_at=5)
    previous = out.with_name(out.name + ".previous")
    assert previous.read_text() == "precious"
    note_of(out).rename(out.parent / "note")
    with pytest.raises(GrigriError, match="previous is in the way"):
        write(out)
    (out.parent / "note").rename(note_of(out))
    write(out, resume=True)
    assert out.read_bytes() == whole and names_beside(out) == [out.name]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda out: None, None),
        (lambda out: note_of(out).unlink(), "is finished, or was not begun by predict"),
        (lambda out: note_of(out).write_text("{}"), "not written by predict"),
        (lambda out: note_of(out).write_text("{"), "not valid JSON"),
        (lambda out: out.write_bytes(out.read_bytes()[:-9]), "has been changed since"),
        (lambda out: out.write_bytes(out.read_bytes().replace(b"0.0", b"0.5")), "changed since"),
        (lambda out: MADE_BY.update(model="other"), "another model, or its thresholds"),
        (lambda out: MADE_BY.update({"--amp": "bf16"}), "begun with --amp fp32, not bf16"),
    ],
)
def test_only_the_same_file_of_the_same_model_is_gone_on_with(
    out, whole, change, says, monkeypatch
) -> None:
    with pytest.raises(Interrupted):
        write(out, stop_at=10)
    monkeypatch.setitem(MADE_BY, "model", MADE_BY["model"])
    monkeypatch.setitem(MADE_BY, "--amp", MADE_BY["--amp"])
    change(out)
    before = out.read_bytes()
    if says is None:
        with pytest.raises(GrigriError, match="unfinished: go on with --resume, name another"):
            write(out)
    else:
        with pytest.raises(GrigriError, match=says):
            write(out, resume=True)
    assert out.read_bytes() == before


def test_what_another_engine_has_begun_is_not_gone_on_with(out, whole) -> None:
    """Both may compute in fp32, but their last digits differ."""
    model = out.parent / "model.onnx"
    model.write_bytes(b"a model")
    here = Compute.resolve("cpu", "fp32", 1)
    one, other = (
        prediction_file.made_by(model, engine, here, 9) for engine in ("openvino", "onnxruntime")
    )
    with pytest.raises(Interrupted):
        write(out, stop_at=10, made_by=one)
    with pytest.raises(GrigriError, match="begun with --engine openvino, not onnxruntime"):
        write(out, resume=True, made_by=other)
    note = json.loads(note_of(out).read_text())
    del note["made_by"]["--engine"]  # as an earlier version wrote it
    note_of(out).write_text(json.dumps(note))
    write(out, resume=True, made_by=other)
    assert out.read_bytes() == whole


def test_images_that_were_added_and_removed(out, whole) -> None:
    with pytest.raises(Interrupted):
        write(out, stop_at=10)
    with pytest.raises(GrigriError, match="has none of these images"):
        write(out, [Path("/elsewhere") / path for path in PATHS], resume=True)
    new = [Path("new-1.jpg"), Path("new-2.jpg")]
    now = [PATHS[0], new[0], *PATHS[2:20], new[1], *PATHS[21:]]  # two of the old ones are gone
    with PredictionFile(out, CLASSES, MADE_BY, now, resume=True) as file:
        assert file.has_changed and file.left == [new[0], *PATHS[10:20], new[1], *PATHS[21:]]
        file.add(of(file.left))
        file.finish()
    assert images_in(out) == [str(p) for p in (*PATHS[:10], *file.left)]
    # What is new after the rows that are there is no change.
    with pytest.raises(Interrupted):
        write(out, stop_at=10)
    write(out, [*PATHS[:10], *now[12:]], resume=True)
    assert images_in(out) == [str(p) for p in (*PATHS[:10], *now[12:])]


def test_one_process_at_a_time(out, whole) -> None:
    with PredictionFile(out, CLASSES, MADE_BY, PATHS) as file:
        file.add(of(PATHS))
        with pytest.raises(GrigriError, match="another predict is writing to it"):
            write(out, resume=True)
        file.finish()
    assert out.read_bytes() == whole


def test_a_file_that_is_removed_meanwhile_is_noticed(out, whole, monkeypatch) -> None:
    monkeypatch.setattr(prediction_file, "_STORE_EVERY_S", 0.0)

    def gone(remove) -> str:
        with (
            pytest.raises(GrigriError) as raised,
            PredictionFile(out, CLASSES, MADE_BY, PATHS) as file,
        ):
            file.add(of(PATHS[:5]))
            remove()
            file.add(of(PATHS[5:]))
        return str(raised.value)

    says = f"{out}: it was removed or replaced while it was written"
    assert gone(out.unlink) == says
    note_of(out).unlink()
    assert gone(lambda: shutil.rmtree(out.parent)) == says


def test_a_file_that_cannot_be_written_is_an_error_before_any_work(tmp_path) -> None:
    out = tmp_path / "x" / "p.csv"
    with pytest.raises(GrigriError, match=r"p.csv: cannot be written: No such file or directory"):
        write(out)
