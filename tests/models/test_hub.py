"""Folders of the hub as weights to begin with: timm's own, ours, and what is none."""

import json
from pathlib import Path

import pytest
import timm
import torch
from exported_runs import make_run
from small_runs import QUICK

from grigri_fast.errors import GrigriError
from grigri_fast.inference import hub_folder
from grigri_fast.models import choice, factory, hub, normalize

ARCH = "timm/test_resnet"
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def saved(folder: Path, safe: bool | str = True, arch: str = "test_resnet") -> torch.nn.Module:
    """Let timm save a network with seven classes; return it."""
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=7)
    data = {"input_size": (3, 96, 96), "mean": MEAN, "std": STD}
    timm.models.save_for_hf(model, folder, safe_serialization=safe, data_config=data)
    return model


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_that_timm_wrote(tmp_path: Path, safe: bool) -> None:
    original = saved(tmp_path / "seven", safe)
    assert (tmp_path / "seven" / "model.safetensors").exists() == safe
    # As the hub's client keeps a download: links to files that are named by their content.
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for i, file in enumerate((tmp_path / "seven").iterdir()):
        (folder / file.name).symlink_to(file.rename(tmp_path / f"blob{i}"))
    model = factory.build_pretrained(ARCH, 3, 96, str(folder))
    assert model.preprocessing == normalize.Preprocessing(MEAN, STD)
    assert model.eval()(torch.zeros(2, 3, 96, 96)).shape == (2, 3)
    now, then = model.state_dict(), original.state_dict()
    assert all(torch.equal(now[k], then[k]) for k in now if not k.startswith("fc."))


def test_it_says_the_network_and_the_size_unless_they_are_given(tmp_path: Path) -> None:
    saved(tmp_path)
    place = str(tmp_path)
    chosen = choice.choose("auto", None, place, "cpu")
    assert (chosen.arch, chosen.size_px) == (ARCH, 96) and f"as {place} says" in chosen.why
    assert choice.choose(ARCH, None, place, "cpu").size_px == 96
    assert choice.choose("auto", 64, place, "cpu").size_px == 64
    assert choice.choose(f"{ARCH}.r160_in1k", 64, place, "cpu").why == ""
    with pytest.raises(GrigriError, match=r"holds timm/test_resnet, not --arch timm/resnet18"):
        choice.choose("timm/resnet18", 64, place, "cpu")


def test_what_an_older_timm_wrote_has_all_at_the_top(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    old = config.pop("pretrained_cfg") | config | {"license": "cc-by-nc-4.0"}
    (tmp_path / "config.json").write_text(json.dumps(old))
    lines: list[str] = []
    model = factory.build_pretrained(ARCH, 3, 96, str(tmp_path), lines.append)
    assert model.preprocessing == normalize.Preprocessing(MEAN, STD)
    assert len(lines) == 1 and "cc-by-nc-4.0, which forbids commercial use" in lines[0]
    assert factory.licence_of(ARCH, str(tmp_path)) == "cc-by-nc-4.0"
    for key in ("mean", "std", "input_size"):
        for value in (None, [1, 2], ["a", "b", "c"], [0, -1, float("nan")], {"a": 1}):
            (tmp_path / "config.json").write_text(json.dumps(old | {key: value}))
            found = hub.read(tmp_path)
            assert (found.size_px if key == "input_size" else found.preprocessing) is None


@pytest.mark.parametrize("arch", ["resnet18", "shufflenet_v2_x0_5"])
def test_a_folder_of_ours_with_a_network_of_torchvisions(
    tmp_path: Path, photos_once: Path, arch: str
) -> None:
    run = make_run(tmp_path / "run", photos_once, arch, 32)
    out = hub_folder.export(run, threads=1).path
    told = hub.read(out)
    assert told.arch == (f"timm/{arch}" if arch == "resnet18" else arch) and told.size_px == 32
    for name in {arch, told.arch}:
        model = factory.build_pretrained(name, 5, 32, str(out))
        assert model.preprocessing == normalize.Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def of_another(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "test_vit"}))


@pytest.mark.parametrize(
    ("damage", "options", "says"),
    [
        (lambda f: (f / "config.json").unlink(), [], "there is no config.json in it"),
        (
            lambda f: (f / "config.json").rename(f / "config.toml"),
            [],
            "(of a run: --weights {f}/last.safetensors)",
        ),
        (lambda f: (f / "model.safetensors").unlink(), [], "no model.safetensors or pytorch_m"),
        (write("config.json", "{"), [], "config.json: not valid JSON"),
        (write("config.json", "[1]"), [], "config.json: expected a JSON object"),
        (write("config.json", "[" * 10**5), [], "config.json: not valid JSON"),
        (write("config.json", '{"model_type": "vit"}'), [], "names no network of timm"),
        (write("config.json", '{"architecture": "resnet19"}'), [], "no such architecture"),
        (cut, [], "model.safetensors: cannot be read"),
        (write("model.safetensors", ""), [], "model.safetensors: cannot be read"),
        (of_another, [], "does not fit timm/test_vit"),
        (lambda f: None, ["--arch=timm/resnet18"], "not --arch timm/resnet18 (leave --arch out"),
        (lambda f: None, ["--arch=shufflenet_v2_x0_5"], "not --arch shufflenet_v2_x0_5"),
    ],
)
def test_wrong_folders_are_one_line(
    cli, tmp_path: Path, photos_once: Path, damage, options: list[str], says: str
) -> None:
    folder = tmp_path / "weights"
    saved(folder)
    damage(folder)
    rest = [o for o in QUICK if not o.startswith(("--arch", "--weights"))]
    code, _, err = cli(
        *("train", photos_once, "--out", tmp_path / "runs", "--weights", folder, *options, *rest)
    )
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1
    assert says.format(f=folder) in err and not (tmp_path / "runs").exists()
