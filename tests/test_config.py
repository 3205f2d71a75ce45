import dataclasses
from pathlib import Path

import pytest

from grigri_fast.config import TrainConfig, read_toml, resolve, write_toml
from grigri_fast.errors import GrigriError


def test_the_defaults_are_the_reports_final_recipe() -> None:
    config = resolve(TrainConfig(data="photos"))
    assert (config.arch, config.weights, config.size) == ("resnet34", "imagenet", 224)
    assert (config.loss, config.optimizer, config.schedule) == ("bce", "sgd", "onecycle")
    assert (config.lr, config.momentum, config.momentum_min) == (0.01, 0.95, 0.85)
    assert (config.weight_decay, config.batch_size, config.epochs) == (1e-4, 32, 20)
    assert config.augment and not config.freeze_backbone
    assert (config.val, config.test) == (0.2, 0.0)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"optimizer": "adam"}, {"lr": 0.001, "momentum": 0.95, "momentum_min": 0.85}),
        ({"optimizer": "adam", "schedule": "constant"}, {"lr": 0.001, "momentum": 0.9}),
        ({"optimizer": "rmsprop"}, {"lr": 0.001, "momentum": 0.0, "momentum_min": 0.0}),
        ({"schedule": "constant"}, {"lr": 0.01, "momentum": 0.9, "momentum_min": None}),
        ({"momentum": 0.5}, {"momentum": 0.5, "momentum_min": 0.5}),
        ({"lr": 0.3}, {"lr": 0.3}),
        ({"split": "s.json"}, {"val": None, "test": None}),
        ({"test": 0.1}, {"val": 0.2, "test": 0.1}),
    ],
    ids=str,
)
def test_what_was_left_open_is_filled_in(given: dict, expected: dict) -> None:
    config = resolve(TrainConfig(data="photos", **given))
    assert {name: getattr(config, name) for name in expected} == expected
    assert resolve(config) == config


@pytest.mark.parametrize(
    "given, says",
    [
        ({"val": 0}, "--val must be more than 0 and less than 1"),
        ({"val": 1.0}, "--val must be more than 0 and less than 1"),
        ({"test": -0.1}, "--test must be at least 0"),
        ({"val": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"split": "s.json", "val": 0.2}, "leave --val/--test out"),
        ({"lr": 0}, "--lr must be more than 0"),
        ({"lr": float("nan")}, "--lr must be more than 0"),
        ({"lr": float("inf")}, "--lr must be more than 0"),
        ({"momentum": 1.0}, "--momentum must be at least 0 and less than 1"),
        ({"momentum_min": -1}, "--momentum-min must be at least 0"),
        ({"weight_decay": -1e-4}, "--weight-decay must be at least 0"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"size": 0}, "--size must be at least 1"),
        ({"limit": 0}, "--limit must be at least 1"),
        ({"threads": 0}, "--threads must be at least 1"),
        ({"batch_size": 1}, "--batch-size must be at least 2"),
        ({"seed": -1}, "--seed must be from 0"),
        ({"seed": 2**32}, "--seed must be from 0"),
        ({"loss": "hinge"}, "--loss must be one of bce, mse, not 'hinge'"),
        ({"optimizer": 3}, "--optimizer must be one of"),
        ({"amp": "int8"}, "--amp must be one of"),
        ({"name": "a/b"}, "--name 'a/b' is not a folder name"),
        ({"name": ""}, "is not a folder name"),
        ({"name": ".."}, "is not a folder name"),
        ({"epochs": 2.5}, "--epochs takes a value of type int, not 2.5"),
        ({"epochs": True}, "--epochs takes a value of type int, not True"),
        ({"epochs": "3"}, "--epochs takes a value of type int"),
        ({"lr": "fast"}, "--lr takes a value of type float"),
        ({"augment": 1}, "--augment takes a value of type bool"),
        ({"arch": 18}, "--arch takes a value of type str"),
        ({"schedule": "constant", "momentum_min": 0.8}, "only works with --schedule onecycle"),
    ],
    ids=str,
)
def test_wrong_values(given: dict, says: str) -> None:
    with pytest.raises(GrigriError) as error:
        TrainConfig(data="photos", **given)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_momentum_min_above_momentum() -> None:
    with pytest.raises(GrigriError, match=r"--momentum-min 0\.9 is above --momentum 0\.8"):
        resolve(TrainConfig(momentum=0.8, momentum_min=0.9))


def test_a_whole_number_is_a_float_too() -> None:
    lr = TrainConfig(lr=1).lr
    assert lr == 1.0 and isinstance(lr, float)


ODD = 'quote " back \\ tab \t newline \n del \x7f bell \x07 é 漢 😀 # = [x]'


@pytest.mark.parametrize("text", ["plain", ODD])
def test_toml_round_trip(tmp_path: Path, text: str) -> None:
    config = resolve(TrainConfig(data=text, lr=1e-7, seed=5, augment=False, limit=10))
    file = tmp_path / "config.toml"
    file.write_text(write_toml(config), encoding="utf-8")
    assert TrainConfig(**read_toml(file)) == config


def test_toml_explains_every_field() -> None:
    text = write_toml(resolve(TrainConfig(data="x")))
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"] in text
        assert f"\n{field.name} = " in text or f"\n# {field.name} is not set" in text


@pytest.mark.parametrize(
    "content, says",
    [
        (b"epoch = 3", "unknown key 'epoch'; the keys are data, "),
        (b"epochs = ", "not valid TOML"),
        (b"arch = 'caf\xe9'", "not valid TOML"),
        (b"[train]\nepochs = 3", "unknown key 'train'"),
    ],
)
def test_wrong_files(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(GrigriError) as error:
        read_toml(file)
    assert says in str(error.value) and str(file) in str(error.value)
    with pytest.raises(GrigriError, match="No such file"):
        read_toml(tmp_path / "nowhere.toml")
    with pytest.raises(GrigriError, match="Is a directory"):
        read_toml(tmp_path)
