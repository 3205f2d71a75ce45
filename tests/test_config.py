import dataclasses
import math
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from option_table import markdown_table

import grigri_fast
from grigri_fast.config import (
    LABEL_OPTIONS,
    OPTIONS,
    RECIPES,
    TrainConfig,
    read_toml,
    resolve,
)
from grigri_fast.errors import GrigriError
from grigri_fast.runtime.option import write_toml


def error_of(**options: object) -> str:
    """Return the one-line message of the GrigriError that these options end in."""
    with pytest.raises(GrigriError) as caught:
        TrainConfig(**options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_the_recipe_of_the_report_is_its_final_one() -> None:
    config = resolve(TrainConfig(data="photos", recipe="report"))
    assert dataclasses.asdict(config) == {
        "data": "photos",
        "images": None,
        **dict.fromkeys(LABEL_OPTIONS),
        "val": None,
        "test": None,
        "split": None,
        "limit": None,
        "max_bad": 0.05,
        "strict": False,
        "max_pixels": 100_000_000,
        "arch": "auto",
        "weights": "imagenet",
        "probe": False,
        "freeze_backbone": False,
        "freeze_stages": 0,
        "freeze_norms": False,
        "init": "default",
        "train_norms": False,
        "size": None,  # what it becomes depends on the machine, as the network does
        "start_size": None,
        "test_size": None,
        "flip_test": False,
        "recipe": "report",
        "epochs": 20,
        "batch_size": 32,
        "micro_batch_size": None,
        "activation_checkpointing": False,
        "loss": "bce",
        "optimizer": "sgd",
        "schedule": "onecycle",
        "lr": 0.01,
        "head_lr_factor": 1.0,
        "layer_decay": 1.0,
        "warm_up": 0.3,
        "momentum": 0.95,
        "momentum_min": 0.85,
        "weight_decay": 1e-4,
        "decay_all": True,
        "ema": 0.0,
        "sampler": "shuffle",
        "most_repeats": 4.0,
        "seed": 0,
        "augment": True,
        "least_area": 0.08,
        "rotation": 25.0,
        "color": 0.0,
        "erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.0,
        "device": "auto",
        "amp": "auto",
        "memory_limit": None,
        "cache": "auto",
        "compile": "auto",
        "fast": True,
        "threads": None,
        "out": "runs",
        "name": None,
        "tensorboard": False,
        "checkpoint_every": "10min",
    }


def test_every_option_is_documented() -> None:
    assert list(OPTIONS) == [field.name for field in dataclasses.fields(TrainConfig)]
    for name, about in OPTIONS.items():
        assert about.help.strip().endswith((".", "]")) and "\n" not in about.help, name
        assert about.group, name


# ------------------------------------------------------------------------------------ resolve


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({"optimizer": "sgd"}, {"lr": 0.01, "momentum": 0.95, "momentum_min": 0.85}),
        ({"optimizer": "adamw"}, {"lr": 3e-4, "weight_decay": 0.05, "momentum": 0.95}),
        ({"optimizer": "adamw", "weight_decay": 0.1}, {"lr": 3e-4, "weight_decay": 0.1}),
        ({"optimizer": "adam"}, {"lr": 0.001, "momentum": 0.95, "momentum_min": 0.85}),
        ({"optimizer": "amsgrad"}, {"lr": 0.001, "momentum": 0.95, "momentum_min": 0.85}),
        ({"optimizer": "rmsprop"}, {"lr": 0.001, "momentum": 0.0, "momentum_min": 0.0}),
        ({"schedule": "constant"}, {"lr": 0.01, "momentum": 0.9, "momentum_min": None}),
        (
            {"optimizer": "adam", "schedule": "constant"},
            {"lr": 0.001, "momentum": 0.9, "momentum_min": None},
        ),
        (
            {"optimizer": "rmsprop", "schedule": "constant"},
            {"lr": 0.001, "momentum": 0.0, "momentum_min": None},
        ),
        ({"optimizer": "adam", "lr": 0.5}, {"lr": 0.5}),
        ({"momentum": 0.6}, {"momentum": 0.6, "momentum_min": 0.6}),
        ({"momentum": 0.0}, {"momentum": 0.0, "momentum_min": 0.0}),
        ({"momentum": 0.99}, {"momentum": 0.99, "momentum_min": 0.85}),
        ({"momentum_min": 0.0}, {"momentum": 0.95, "momentum_min": 0.0}),
        ({"momentum": 0.9, "momentum_min": 0.9}, {"momentum": 0.9, "momentum_min": 0.9}),
        ({"optimizer": "rmsprop", "momentum": 0.9}, {"momentum": 0.9, "momentum_min": 0.85}),
        ({}, {"val": None, "test": None}),  # the data may come with a split
        ({}, RECIPES["report"]),
        ({"weights": "none"}, RECIPES["report"]),
        ({"recipe": None}, {"recipe": "best", **RECIPES["fine_tune"]}),
        ({"recipe": "best"}, {"recipe": "best", **RECIPES["fine_tune"]}),
        ({"recipe": "best", "weights": "w.pth"}, RECIPES["fine_tune"]),
        ({"recipe": None, "weights": "none"}, {"recipe": "best", **RECIPES["best"]}),
        ({"recipe": "best", "ema": 0.0}, RECIPES["fine_tune"] | {"ema": 0.0}),
        ({"recipe": "best", "weights": "none", "train_norms": False}, {"train_norms": False}),
        ({"recipe": "best", "optimizer": "adam"}, {"lr": 0.001, "ema": RECIPES["best"]["ema"]}),
        ({"recipe": "best", "weights": "none", "optimizer": "sgd"}, {"lr": 0.01}),
        (
            {"recipe": "best", "freeze_backbone": True},
            {"freeze_stages": 0, "freeze_norms": False, "layer_decay": 1.0},
        ),
        ({"augment": False}, {"least_area": None, "rotation": None, "color": 0.0, "mixup": 0.0}),
        ({"size": 96}, {"start_size": 96, "test_size": 96}),
        ({"size": 96, "start_size": 64, "test_size": 128}, {"start_size": 64, "test_size": 128}),
        ({"val": 0.1}, {"val": 0.1, "test": None}),
        ({"split": "s.json"}, {"val": None, "test": None, "split": "s.json"}),
    ],
    ids=str,
)
def test_what_is_left_open_is_filled_in(given: dict, resolved: dict) -> None:
    config = resolve(TrainConfig(**{"recipe": "report"} | given))
    assert {name: getattr(config, name) for name in resolved} == resolved
    assert resolve(config) == config


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"momentum": 0.5, "momentum_min": 0.6}, ["--momentum-min 0.6", "--momentum 0.5"]),
        ({"optimizer": "rmsprop", "momentum_min": 0.6}, ["--momentum-min 0.6", "--momentum 0.0"]),
    ],
    ids=str,
)
def test_options_that_contradict_each_other(given: dict, words: list[str]) -> None:
    with pytest.raises(GrigriError) as caught:
        resolve(TrainConfig(**{"recipe": "report"} | given))
    for word in words:
        assert word in str(caught.value)


# --------------------------------------------------------------------------------- validation

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("val", [0, -0.1, 1, 1.5, NAN, INF]),
        ("test", [-0.1, 1, 1.5, NAN]),
        ("lr", [0, -1, INF, NAN]),
        ("momentum", [-0.1, 1, 1.5, NAN]),
        ("momentum_min", [-0.1, 1, NAN]),
        ("weight_decay", [-1e-9, INF, NAN]),
        ("epochs", [-1]),
        ("batch_size", [1, -4]),
        ("micro_batch_size", [1, 0, -4]),
        ("size", [0, -224]),
        ("limit", [0, -1]),
        ("threads", [0, -1]),
        ("seed", [-1, 2**32]),
        ("name", ["", "a/b", "/", ".", "..", ".hidden", "a\0b"]),
        ("loss", ["hinge", "", "BCE"]),
        ("recipe", ["", "Best"]),
        ("init", ["xavier"]),
        ("sampler", ["random"]),
        ("warm_up", [-0.1, 1, NAN]),
        ("ema", [-0.1, 1, NAN]),
        ("color", [-0.1, 1, NAN]),
        ("label_smoothing", [-0.1, 1, NAN]),
        ("least_area", [0, 1.1, NAN]),
        ("rotation", [-1, 181, NAN]),
        ("erasing", [-0.1, 1.1, NAN]),
        ("cutmix", [-0.1, 1.1, NAN]),
        ("mixup", [-0.1, INF, NAN]),
        ("head_lr_factor", [0, -1, INF, NAN]),
        ("most_repeats", [0.9, INF, NAN]),
        ("layer_decay", [0, 1.1, NAN]),
        ("freeze_stages", [-1]),
        ("start_size", [0]),
        ("test_size", [0]),
        ("optimizer", ["lion"]),
        ("schedule", ["cosine"]),
        ("device", ["gpu"]),
        ("amp", ["fp8"]),
    ],
)
def test_a_value_out_of_range_is_an_error(name: str, values: list) -> None:
    for value in values:
        message = error_of(**{name: value})
        assert message.startswith(flag(name)), value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("data", ["", "x"]),
        ("val", [1e-9, 0.999]),
        ("test", [0, 0.999]),
        ("lr", [1e-12, 100]),
        ("momentum", [0, 0.999]),
        ("momentum_min", [0]),
        ("weight_decay", [0, 10]),
        ("epochs", [0, 1, 10_000]),
        ("batch_size", [2]),
        ("size", [1]),
        ("limit", [1, None]),
        ("threads", [1, None]),
        ("seed", [0, 2**32 - 1]),
        ("least_area", [1e-3, 1]),
        ("rotation", [0, 180]),
        ("erasing", [0, 1]),
        ("cutmix", [0, 1]),
        ("mixup", [0, 8]),
        ("ema", [0, 0.9999, None]),
        ("recipe", ["report", "best", None]),
        ("name", ["a", "a.b", "ünï code", None]),
    ],
)
def test_a_value_at_the_edge_is_fine(name: str, values: list) -> None:
    for value in values:
        assert getattr(TrainConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "s.json", "val": 0.2}, ["--split", "--val/--test"]),
        ({"split": "s.json", "test": 0.0}, ["--split", "--val/--test"]),
        ({"val": 0.5, "test": 0.5}, ["--val and --test"]),
        ({"val": 0.9, "test": 0.3}, ["--val and --test"]),
        ({"schedule": "constant", "momentum_min": 0.8}, ["--momentum-min", "onecycle"]),
        ({"schedule": "constant", "warm_up": 0.1}, ["--warm-up", "onecycle"]),
        ({"augment": False, "color": 0.1}, ["--color", "--no-augment"]),
        ({"augment": False, "mixup": 0.2}, ["--mixup", "--no-augment"]),
        ({"start_size": 96, "size": 64}, ["--start-size 96", "--size 64"]),
        ({"freeze_backbone": True, "head_lr_factor": 2}, ["--head-lr-factor", "--lr"]),
        ({"freeze_backbone": True, "layer_decay": 0.5}, ["--layer-decay", "--freeze-backbone"]),
        ({"freeze_backbone": True, "freeze_stages": 1}, ["--freeze-stages", "--freeze-backbone"]),
        ({"freeze_norms": True, "weights": "none"}, ["--freeze-norms needs loaded weights"]),
        ({"train_norms": True}, ["--train-norms", "--no-train-norms"]),
    ],
    ids=str,
)
def test_options_that_exclude_each_other(options: dict, words: list[str]) -> None:
    message = error_of(**options)
    for word in words:
        assert word in message


WRONG_TYPES = {
    str: [1, 1.5, True, [], {}],
    int: ["1", 1.0, True, False, []],
    float: ["0.5", True, False, [0.5]],
    bool: [0, 1, "true", 1.0, []],
}


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda f: f.name)
def test_a_wrong_type_is_an_error(field: dataclasses.Field) -> None:
    kind = next((k for k in WRONG_TYPES if field.type in (k, k | None)), str)
    for value in WRONG_TYPES[kind]:
        assert error_of(**{field.name: value}).startswith(flag(field.name)), value
    if field.default is not None:
        assert error_of(**{field.name: None}).startswith(flag(field.name))


def test_an_int_is_taken_for_a_float() -> None:
    config = TrainConfig(lr=1, weight_decay=0, momentum=0)
    assert [type(v) for v in (config.lr, config.weight_decay, config.momentum)] == [float] * 3
    assert (config.lr, config.weight_decay, config.momentum) == (1.0, 0.0, 0.0)


def test_an_int_too_large_for_a_float_is_an_error() -> None:
    assert error_of(lr=10**400).startswith("--lr")


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3


# --------------------------------------------------------------------------------------- TOML

ODD_STRINGS = {
    "quotes": "a\"b'c\"\"\"d'''",
    "backslash": "C:\\new\\u0041",
    "unicode": "Häuser/写真/🐈\u2028",
    "DEL": "a\x7fb",
    "newline": "a\nb\r\nc",
    "tab and control": "a\tb\x01\x1f",
    "comment": "a # b = 1",
    "empty": "",
}


def there_and_back(config: TrainConfig, folder: Path) -> TrainConfig:
    file = folder / "config.toml"
    file.write_bytes(write_toml(config).encode())
    return TrainConfig(**read_toml(file))


@pytest.mark.parametrize("text", ODD_STRINGS.values(), ids=ODD_STRINGS)
def test_odd_strings_survive_toml(tmp_path: Path, text: str) -> None:
    config = TrainConfig(data=text, images=text, weights=text, out=text or "runs")
    assert there_and_back(config, tmp_path) == config


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        resolve(TrainConfig(data="x")),
        resolve(TrainConfig(split="s.json", schedule="constant", optimizer="rmsprop")),
        TrainConfig(lr=1e-7, weight_decay=1e22, momentum=0.1 + 0.2, seed=2**32 - 1, limit=10**18),
        TrainConfig(lr=5e-324, weight_decay=1.7976931348623157e308, val=1 / 3),
        TrainConfig(freeze_backbone=True, augment=False, device="cpu", amp="bf16", threads=2),
    ],
    ids=["defaults", "resolved", "split", "numbers", "extreme numbers", "switches"],
)
def test_every_value_survives_toml(tmp_path: Path, config: TrainConfig) -> None:
    assert there_and_back(config, tmp_path) == config


def test_the_toml_names_and_documents_every_option() -> None:
    text = write_toml(TrainConfig(data="x", limit=3))
    assert tomllib.loads(text)["limit"] == 3
    assert "# threads is not set\n" in text
    for name, about in OPTIONS.items():
        assert f"\n# {about.help}\n" in text
        assert f"\n{name} = " in text or f"\n# {name} is not set" in text


def test_a_path_of_bytes_that_are_no_text_gives_no_broken_toml(tmp_path: Path) -> None:
    """Linux hands such a path on as surrogates; UTF-8, and so TOML, cannot hold them."""
    try:
        text = write_toml(TrainConfig(data="caf\udce9"))
    except GrigriError:
        return
    (tmp_path / "config.toml").write_bytes(text.encode())
    assert read_toml(tmp_path / "config.toml")["data"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epoch = 3", ["unknown key 'epoch'", "epochs"]),
        ("[train]\nepochs = 3", ["unknown key 'train'"]),
        ("epochs = ", ["not valid TOML"]),
        ("epochs = 3\nepochs = 4", ["not valid TOML"]),
        (b"data = '\xe9'", ["not UTF-8"]),
        ("{}", ["not valid TOML"]),
        (None, ["No such file"]),
    ],
    ids=ascii,
)
def test_a_wrong_config_file_is_an_error(
    tmp_path: Path, content: str | bytes | None, words: list[str]
) -> None:
    file = tmp_path / "my.toml"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(GrigriError) as caught:
        read_toml(file)
    message = str(caught.value)
    assert message.startswith(f"--config {file}: ") and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("epochs = true", "epochs"),
        ("epochs = 3.0", "epochs"),
        ("epochs = '3'", "epochs"),
        ("augment = 1", "augment"),
        ("lr = 'fast'", "lr"),
        ("lr = inf", "lr"),
        ("lr = nan", "lr"),
        ("data = 7", "data"),
        ("data = 2026-01-01", "data"),
        ("loss = ['bce']", "loss"),
        ("[size]\nheight = 3", "size"),
    ],
)
def test_a_wrong_value_in_a_config_file_names_the_option(
    tmp_path: Path, text: str, name: str
) -> None:
    (tmp_path / "my.toml").write_text(text)
    assert error_of(**read_toml(tmp_path / "my.toml")).startswith(flag(name))


def test_a_folder_is_no_config_file(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="--config"):
        read_toml(tmp_path)


@pytest.mark.parametrize("text", ["", "0", "0min", "-3", "1.5", "ten", "10s", "nan", "5 minutes"])
def test_a_wrong_interval_is_an_error(text: str) -> None:
    with pytest.raises(GrigriError, match="--checkpoint-every"):
        TrainConfig(data="x", checkpoint_every=text)


def test_strict_allows_no_bad_image() -> None:
    assert resolve(TrainConfig(data="x", strict=True)).max_bad == 0
    assert resolve(TrainConfig(data="x", strict=True, max_bad=0)).max_bad == 0
    with pytest.raises(GrigriError, match="--strict"):
        TrainConfig(data="x", strict=True, max_bad=0.1)


def test_sizes_grow_over_two_thirds_of_the_epochs_and_evaluation_with_them() -> None:
    config = resolve(TrainConfig(size=96, start_size=48, test_size=112, epochs=9))
    assert [config.size_in(e) for e in range(1, 10)] == [48, 48, 64, 64, 80, 80, 96, 96, 96]
    assert [config.test_size_in(e) for e in (1, 3, 5, 7, 9)] == [56, 74, 93, 112, 112]
    one = resolve(TrainConfig(size=96, start_size=48, epochs=1))
    assert (one.size_in(1), one.test_size_in(1)) == (96, 96)  # what was asked for is trained
    plain = resolve(TrainConfig(size=224, test_size=256))
    assert {(plain.size_in(e), plain.test_size_in(e)) for e in range(1, 21)} == {(224, 256)}


# ---------------------------------------------------------------- an option is declared once

ONE_DECLARATION = """
    noise: float | None = of_training(
        None,
        "Noise on the targets.",
        Range(0, 1),
        report=0.0,
        best=0.125,
        search=Search(0.0, 0.5),
    )
"""
WHAT_FOLLOWS = """
import contextlib, inspect, io
from pathlib import Path

import grigri_fast
from grigri_fast.cli.main import main
from grigri_fast.config import OPTIONS, TrainConfig, read_toml, resolve
from option_table import markdown_table
from grigri_fast.errors import GrigriError
from grigri_fast.experiments.search_space import space_of
from grigri_fast.runtime.option import write_toml
from grigri_fast.training.resume import resumed_config

def said(*args):
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(args))
    words, error = (stream.buffer.getvalue().decode() for stream in (out, err))
    return code, " ".join(words.split()), error

assert Path(grigri_fast.__file__).is_relative_to(Path.cwd())
# The command line has the option, its help, its range and its default; and so has the API.
assert "--noise X Noise on the targets. [0<=X<1; default: by --recipe]" in said(
    "train", "--help")[1]
assert "--noise" in said("tune", "--help")[1]
assert said("train", "x", "--noise=1") == (
    1, "", "error: --noise must be at least 0 and less than 1, not 1.0\\n")
assert inspect.signature(grigri_fast.train).parameters["noise"].annotation == float | None
# Recipes and the config file.
assert resolve(TrainConfig(weights="none")).noise == 0.125
config = resolve(TrainConfig("x", noise=0.25))
Path("config.toml").write_text(write_toml(config))
assert "# Noise on the targets. [default: by --recipe]\\nnoise = 0.25" in write_toml(config)
assert TrainConfig(**read_toml(Path("config.toml"))) == config
# A search.
assert space_of(config, set(), ["noise"]) == {"noise": {"low": 0.0, "high": 0.5, "log": False}}
# A resume keeps it.
try:
    resumed_config(Path.cwd(), {"noise": 0.5})
except GrigriError as e:
    assert str(e).startswith(f"--noise was 0.25 in {Path.cwd()}, not 0.5: a resumed run keeps")
else:
    raise AssertionError
# The manual.
assert "| `--noise X` | 0<=X<1 | by --recipe (report: 0.0, best: 0.125) |" in (
    markdown_table(OPTIONS))
print("all follows")
"""


@pytest.mark.slow
def test_one_declaration_is_all_that_a_new_option_needs(tmp_path: Path) -> None:
    package = Path(grigri_fast.__file__).parent
    copy = shutil.copytree(
        package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__")
    )
    before, field, after = (
        (copy / "config" / "options.py").read_text().partition("    seed: int = ")
    )
    (copy / "config" / "options.py").write_text(
        before + ONE_DECLARATION.lstrip("\n") + field + after
    )
    done = subprocess.run(
        [sys.executable, "-c", WHAT_FOLLOWS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "all follows\n", done.stderr


def test_the_manuals_table_has_every_option() -> None:
    rows = [line for line in markdown_table(OPTIONS).splitlines() if line.startswith("| `")]
    flags = [
        about.flag.replace("--", "--[no-]" if about.is_switch else "--")
        for about in OPTIONS.values()
        if about.name != "data"
    ]
    assert sorted(row.split("`")[1].split()[0] for row in rows) == sorted([*flags, "DATA"])


def test_no_epochs_leave_a_linear_probe_or_nothing_to_do() -> None:
    config = resolve(TrainConfig(epochs=0, size=96, start_size=48, test_size=112))
    assert config.probe and config.test_size_in(0) == 112
    for options in ({"probe": False}, {"weights": "none"}, {"recipe": "report"}):
        with pytest.raises(GrigriError, match="--epochs 0 leaves nothing to do"):
            resolve(TrainConfig(epochs=0, **options))
