"""eval and predict on small data: what they print, and that it is right."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as reference
from small_runs import header, tensors
from small_set import CLASSES, labels_of

from grigri_fast.data import dataset
from grigri_fast.runs import checkpoint, sealed_file


def rewrite(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write a checkpoint with other weights and all else as it was."""
    fields = sealed_file.read(path, checkpoint.FORMAT)[1]
    sealed_file.write(path, state, fields, checkpoint.FORMAT)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def unseen(images: Path, folder: Path) -> Path:
    """Return a folder with the same pictures in other files, which no run was trained on."""
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes() + b"\0")
    return folder


def evaluate(cli, *args: object) -> dict:
    code, out, err = cli("eval", *args, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)  # one object and nothing else


@pytest.mark.slow
@pytest.mark.parametrize("threshold", ["auto", "per-class", "0.3"])
def test_eval_equals_scikit_learn_on_predicts_probabilities(
    cli, trained, run, tmp_path, threshold: str
) -> None:
    data, _ = trained
    scored = evaluate(cli, run, "--threshold", threshold, "--save")
    assert header(run)["thresholds"] == scored["thresholds"]
    assert same(tensors(run), tensors(trained[1]))

    names = json.loads((run / "split.json").read_text())["parts"]["val"]
    out = tmp_path / "p.json"
    files = [data / "images" / name for name in names]
    assert cli("predict", run, *files, "--out", out)[0] == 0
    predictions = json.loads(out.read_text())
    loaded = dataset.load(data)
    true = loaded.targets_NC[[loaded.names.index(name) for name in names]]
    p = np.array([[x["probabilities"][c] for c in CLASSES] for x in predictions])
    given = np.array([[c in x["labels"] for c in CLASSES] for x in predictions])

    assert (given == (p >= np.broadcast_to(scored["thresholds"], 3))).all()
    assert scored["num_images"] == len(names)
    tuned = {"auto": "tuned on the same images", "per-class": "tuned on the same images"}
    for name, predicted in (("at 0.5", p >= 0.5), (tuned.get(threshold, "at 0.3"), given)):
        s = scored["scores"][name]
        options = {"zero_division": 0}
        for key, expected in {
            "micro_f1": reference.f1_score(true, predicted, average="micro", **options),
            "macro_f1": reference.f1_score(true, predicted, average="macro", **options),
            "subset_accuracy": reference.accuracy_score(true, predicted),
            "mAP": reference.average_precision_score(true, p, average="macro"),
        }.items():
            assert s[key]["value"] == pytest.approx(expected, abs=1e-9), (name, key)
            if key in ("micro_f1", "subset_accuracy"):  # the classes have too few images for others
                assert s[key]["low"] <= s[key]["value"] <= s[key]["high"]
    assert [c["support"] for c in scored["per_class"]] == true.sum(0).tolist()
    assert ("cross-fitted" in scored["scores"]) == (threshold != "0.3")


def test_eval_prints_scores_side_by_side_and_a_table_per_class(cli, trained) -> None:
    code, out, err = cli("eval", trained[1])
    assert (code, err) == (0, "")
    for text in (
        "at 0.5",
        "tuned here",
        "(flatters)",
        "cross-fitted",
        "(honest)",
        "micro-F1",
        "mAP",
    ):
        assert text in out
    assert "not stored; --save stores it" in out
    for name in CLASSES:
        assert any(line.startswith(name) for line in out.splitlines())


def test_looks_at_the_test_part_are_counted(cli, run) -> None:
    for words, looks in (("--part=val", 0), ("--part=test", 1), ("--part=test", 2)):
        assert evaluate(cli, run, words)["test_looks"] == looks
    code, out, err = cli("eval", run, "--part=test", "--checkpoint=best", "--threshold=0.4")
    assert (code, err) == (0, "") and "the test part has been scored 3 times" in out
    rows = list(csv.DictReader((run / "test-looks.csv").open(newline="")))
    assert [(row["checkpoint"], row["threshold"]) for row in rows] == [
        *[("last", "auto")] * 2,
        ("best", "0.4"),
    ]


def test_eval_of_parts_and_checkpoints(cli, run) -> None:
    parts = json.loads((run / "split.json").read_text())["parts"]
    for part, names in parts.items():
        assert evaluate(cli, run, "--part", part)["num_images"] == len(names)
    best = evaluate(cli, run, "--checkpoint", "best")
    assert best["epoch"] == json.loads((run / "summary.json").read_text())["best"]["epoch"]
    assert best["scores"]["at 0.5"]["micro_f1"]["value"] == pytest.approx(
        header(run, "best")["scores"]["micro_f1"], abs=0.05
    )


def test_eval_of_other_data(cli, trained, tmp_path) -> None:
    data, run = trained
    # The same images in a CSV whose columns stand in another order score the same.
    loaded = dataset.load(data)
    order = [2, 0, 1]
    lines = [",".join(["image", *(CLASSES[c] for c in order)])]
    for name, row in zip(loaded.names, loaded.targets_NC.astype(int), strict=True):
        lines.append(",".join([name, *(str(row[c]) for c in order)]))
    (tmp_path / "other.csv").write_text("\n".join(lines))
    copies = unseen(data / "images", tmp_path / "copies")
    (tmp_path / "plain.csv").write_text(
        "\n".join(["image,labels", *(f"{n},{'|'.join(labels_of(r))}" for r, n in _numbered())])
    )
    permuted, plain = (
        evaluate(cli, run, "--data", tmp_path / name, "--images", copies)
        for name in ("other.csv", "plain.csv")
    )
    assert plain["num_images"] == 48 and plain["exposure"] == "unseen" and not plain["seen"]
    assert permuted["scores"] == plain["scores"]


def _numbered() -> list[tuple[int, str]]:
    return [(row, f"im{row + 1}.jpg") for row in range(48)]


def test_a_class_that_the_data_do_not_know_is_left_out_and_keeps_its_threshold(
    cli, trained, run, tmp_path
) -> None:
    copies = unseen(trained[0] / "images", tmp_path / "copies")
    lines = [f"{n},{'|'.join({*labels_of(r)} - {'dog'})}" for r, n in _numbered()]
    (tmp_path / "few.csv").write_text("\n".join(["image,labels", *lines]))
    cli("eval", run, "--threshold=0.125", "--save")
    options = ["--data", tmp_path / "few.csv", "--images", copies]
    few = evaluate(cli, run, *options, "--save")
    by_name = {c["name"]: c for c in few["per_class"]}
    assert few["missing"] == few["absent"] == ["dog"] and by_name["dog"]["support"] == 0
    assert by_name["dog"]["average_precision"] is None and by_name["dog"]["f1"] is None
    kept = header(run)
    assert kept["thresholds"] == [few["thresholds"], 0.125, few["thresholds"]]
    assert kept["threshold_source"].endswith("; as before for dog")
    out = cli("eval", run, *options)[1]
    assert "classes left out, for these data do not know them: dog" in out
    assert "macro-F1 and mAP are of 2 classes; no image here has dog" in out


@pytest.mark.slow
def test_images_that_it_was_trained_on_are_left_out_wherever_they_lie(
    cli, trained, run, tmp_path
) -> None:
    data, _ = trained
    parts = json.loads((run / "split.json").read_text())["parts"]
    own = evaluate(cli, run)
    # All images under other names: those of train are known by their content.
    moved = tmp_path / "moved"
    moved.mkdir()
    lines = ["image,labels"]
    for row, name in _numbered():
        shutil.copy(data / "images" / name, moved / f"x{row}.jpg")
        lines.append(f"x{row}.jpg,{'|'.join(labels_of(row))}")
    (moved / "labels.csv").write_text("\n".join(lines))
    rest = evaluate(cli, run, "--data", moved / "labels.csv")
    assert rest["exposure"] == "unseen" and rest["num_images"] == 48 - len(parts["train"])
    assert len(rest["seen"]) == len(parts["train"])
    found = evaluate(cli, run, "--data", moved / "labels.csv", "--part=val")
    assert (found["scores"], found["seen"]) == (own["scores"], [])
    code, out, err = cli("eval", run, "--data", moved / "labels.csv")
    assert (code, err) == (0, "") and "(honest)" in out
    assert f"{len(parts['train'])} left out, for the model was trained on them: x" in out
    # Of nothing but training images the score is not called honest, in either place.
    for options in (["--part=train"], ["--part=train", "--data", moved / "labels.csv"]):
        code, out, _ = cli("eval", run, *options)
        assert code == 0 and "honest" not in out and "(seen in training)" in out
        assert "the model was trained on all of these images" in out


def test_data_that_have_moved_are_asked_for(cli, run, tmp_path) -> None:
    config = (run / "config.toml").read_text()
    gone = tmp_path / "gone" / "photos"
    lines = [f'data = "{gone}"' if x.startswith("data = ") else x for x in config.splitlines()]
    (run / "config.toml").write_text("\n".join(lines))
    code, _, err = cli("eval", run)
    assert code == 1 and err.count("\n") == 1
    assert f"{gone}: no such file or folder; the data of {run} were there" in err
    assert f"If they have moved: eval {run} --data NEW --part val" in err


def test_the_best_epoch_is_not_called_honest_where_it_was_chosen(cli, run) -> None:
    _, out, _ = cli("eval", run, "--checkpoint=best")
    assert "(epoch chosen here)" in out and "honest" not in out
    assert "(honest)" in cli("eval", run, "--checkpoint=best", "--part=test")[1]


def test_predict_writes_csv_and_json_that_agree(cli, trained, tmp_path) -> None:
    data, run = trained
    for name in ("p.csv", "p.json"):
        code, out, err = cli("predict", run, data / "images", "--out", tmp_path / name)
        assert (code, err) == (0, "") and "48 images" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    objects = json.loads((tmp_path / "p.json").read_text())
    assert [r["image"] for r in rows] == [o["image"] for o in objects]
    assert [r["labels"].split("|") if r["labels"] else [] for r in rows] == [
        o["labels"] for o in objects
    ]
    for row, one in zip(rows, objects, strict=True):
        for name in CLASSES:
            assert float(row[f"p({name})"]) == pytest.approx(one["probabilities"][name], abs=1e-6)
            assert (one["probabilities"][name] >= 0.5) == (name in one["labels"])


def test_predict_in_a_pipe_is_csv_in_the_order_of_the_paths(cli, trained) -> None:
    data, run = trained
    files = [data / "images" / f"im{n}.jpg" for n in (30, 4, 17)]
    code, out, _ = cli("predict", run, *files)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [r["image"] for r in rows] == list(map(str, files))
    # What is predicted for an image does not depend on its company.
    (alone,) = csv.DictReader(io.StringIO(cli("predict", run, files[1])[1]))
    for name in CLASSES:
        assert float(alone[f"p({name})"]) == pytest.approx(float(rows[1][f"p({name})"]), abs=0.02)


def test_predict_takes_files_folders_and_globs(cli, trained, tmp_path) -> None:
    data, run = trained
    for args, count in (
        ([data / "images"], 48),
        ([data], 48),  # searched to the bottom
        ([f"{data}/images/im1?.jpg"], 10),
        ([data / "images" / "im1.jpg", f"{data}/images/im[12].jpg"], 2),
    ):
        _, out, _ = cli("predict", run, *args)
        assert len(out.splitlines()) == count + 1


def test_predict_reports_a_bad_file_and_labels_the_others(cli, trained, tmp_path) -> None:
    data, run = trained
    folder = Path(shutil.copytree(data / "images", tmp_path / "images"))
    (folder / "im5.jpg").write_bytes((folder / "im5.jpg").read_bytes()[:300])
    (folder / "im6.jpg").write_text("no picture")
    code, out, err = cli("predict", run, folder)
    rows = {Path(r["image"]).name: r for r in csv.DictReader(io.StringIO(out))}
    assert code == 1 and err.count("\n") == 1 and "im5.jpg" in err and "1 more" in err
    assert [name for name, row in rows.items() if row["error"]] == ["im5.jpg", "im6.jpg"]
    good = {Path(r["image"]).name: r for r in _predicted(cli, run, data / "images")}
    for name, row in rows.items():
        if not row["error"]:
            assert row["labels"] == good[name]["labels"]


def _predicted(cli, run: Path, folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(cli("predict", run, folder)[1])))


def test_only_bad_files(cli, trained, tmp_path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    code, out, _ = cli("predict", trained[1], tmp_path)
    assert code == 1 and "not a JPEG" in out


def probabilities(cli, run: Path, *args: object) -> dict[str, np.ndarray]:
    """Return what predict says in fp32, by path."""
    out = run / "probabilities.json"
    code, _, err = cli("predict", run, *args, "--amp=fp32", "--out", out)
    assert (code, err) == (0, "")
    found = json.loads(out.read_text())
    assert all(one["error"] is None for one in found)
    return {one["image"]: np.array([one["probabilities"][c] for c in CLASSES]) for one in found}


def logs(cli, run: Path, *args: object) -> dict[str, np.ndarray]:
    """Return the logarithms of what predict says: they tell images apart where a model is sure."""
    return {path: np.log(p) for path, p in probabilities(cli, run, *args).items()}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 32, 33, 47, 48])  # batches are of 32; of 33, the one joins
def test_eval_scores_every_image_once(cli, trained, run, tmp_path, count: int) -> None:
    data, _ = trained
    loaded = dataset.load(data)
    rows = [1, *(row for row in range(48) if row != 1)][:count]  # the first has a label
    lines = [f"{loaded.names[row]},{'|'.join(labels_of(row))}" for row in rows]
    (tmp_path / "some.csv").write_text("\n".join(["image,labels", *lines]))
    copies = unseen(data / "images", tmp_path / "copies")
    options = ["--data", tmp_path / "some.csv", "--images", copies, "--amp=fp32"]
    scored = evaluate(cli, run, *options, "--threshold=0.5")
    by_path = probabilities(cli, run, *(loaded.paths[row] for row in rows))
    given = np.array([by_path[str(loaded.paths[row])] for row in rows]) >= 0.5
    true = loaded.targets_NC[rows]
    assert scored["num_images"] == count == len(by_path)
    assert [c["support"] for c in scored["per_class"]] == true.sum(0).tolist()
    found = {key: value["value"] for key, value in scored["scores"]["at 0.5"].items()}
    f1 = reference.f1_score(true, given, average="micro", zero_division=0)
    assert found["micro_f1"] == pytest.approx(f1, abs=1e-9)
    assert found["subset_accuracy"] == pytest.approx((given == true).all(1).mean(), abs=1e-9)


def test_predictions_go_with_their_paths(cli, trained, run) -> None:
    data, _ = trained
    files = [data / "images" / f"im{n}.jpg" for n in range(1, 49)]
    together = logs(cli, run, *files)
    assert len({tuple(np.round(p, 2)) for p in together.values()}) > 40  # images can be told apart
    backwards = logs(cli, run, *reversed(files))
    assert list(together) == list(map(str, files)) and list(backwards) == list(together)[::-1]
    for path in files:
        assert backwards[str(path)] == pytest.approx(together[str(path)], abs=1e-2)
    for path in files[::12]:
        alone = logs(cli, run, path)
        assert alone[str(path)] == pytest.approx(together[str(path)], abs=1e-2)


def test_pictures_of_all_kinds_are_upright_rgb(cli, run, tmp_path) -> None:
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    pixels = np.full((32, 40, 3), (30, 220, 30), dtype=np.uint8)
    pixels[:10] = (30, 128, 250)
    image = Image.fromarray(pixels)
    image.save(folder / "a.png")
    same_as_a = ["a.bmp", "a.tif", "a.webp", "palette.png", "rgba.png", "CAPITALS.PNG"]
    image.save(folder / "a.bmp")
    image.save(folder / "a.tif")
    image.save(folder / "a.webp", lossless=True)
    image.quantize(8).save(folder / "palette.png")
    image.convert("RGBA").save(folder / "rgba.png")
    image.save(folder / "CAPITALS.PNG")
    gray = image.convert("L")
    gray.save(folder / "gray.png")
    gray.convert("RGB").save(folder / "gray-rgb.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn it by 90 degrees clockwise"
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "turned.jpg", exif=exif, quality=100, subsampling=0)
    image.save(folder / "upright.jpg", quality=100, subsampling=0)
    turned.save(folder / "lying.jpg", quality=100, subsampling=0)

    found = {Path(k).name: v for k, v in logs(cli, run, tmp_path / "deep").items()}
    assert len(found) == 12
    for name in same_as_a:
        assert found[name] == pytest.approx(found["a.png"], abs=1e-2), name
    assert found["gray.png"] == pytest.approx(found["gray-rgb.png"], abs=1e-2)
    assert found["gray.png"] != pytest.approx(found["a.png"], abs=1)
    assert found["turned.jpg"] == pytest.approx(found["upright.jpg"], abs=0.5)
    assert found["lying.jpg"] != pytest.approx(found["upright.jpg"], abs=2)


def test_bad_files_in_json(cli, trained, run, tmp_path) -> None:
    good = trained[0] / "images" / "im4.jpg"
    (tmp_path / "a.jpg").write_bytes(b"")
    out = tmp_path / "p.json"
    code, printed, err = cli("predict", run, tmp_path / "a.jpg", good, "--out", out)
    bad, fine = json.loads(out.read_text())
    assert code == 1 and "2 images" in printed and err.count("\n") == 1
    assert bad == {
        "image": str(tmp_path / "a.jpg"),
        "labels": [],
        "error": "empty file",
        "probabilities": {},
    }
    assert fine["error"] is None and set(fine["probabilities"]) == set(CLASSES)


@pytest.mark.slow
def test_last_and_best_are_the_files_of_that_name(cli, trained, run) -> None:
    data, _ = trained
    state = tensors(run)
    state["fc.weight"] *= -1
    rewrite(run / "best.safetensors", state)
    options = [data / "images", "--out", run / "p.json"]
    labels = {}
    for name in ("last", "best"):
        scored = evaluate(cli, run, "--checkpoint", name)
        assert scored["checkpoint"] == str(run / f"{name}.safetensors")
        assert cli("predict", run, *options, "--checkpoint", name)[0] == 0
        labels[name] = (scored["scores"]["at 0.5"], (run / "p.json").read_text())
    assert labels["last"][0] != labels["best"][0] and labels["last"][1] != labels["best"][1]

    before = (run / "last.safetensors").read_bytes()
    evaluate(cli, run, "--checkpoint=best", "--threshold=0.25", "--save")
    assert header(run, "best")["thresholds"] == 0.25
    assert same(tensors(run, "best"), state)
    assert (run / "last.safetensors").read_bytes() == before


def test_eval_without_save_changes_nothing(cli, trained) -> None:
    _, run = trained
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    evaluate(cli, run, "--threshold=per-class", "--part=train")
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
