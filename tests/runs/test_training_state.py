from pathlib import Path

import pytest
import torch

from grigri_fast.errors import GrigriError
from grigri_fast.models import factory
from grigri_fast.models.normalize import Preprocessing
from grigri_fast.runs import checkpoint, sealed_file, training_state
from grigri_fast.runs.checkpoint import ModelInfo
from grigri_fast.runs.training_state import Progress

CPU = torch.device("cpu")


def trained_for(steps: int, optimizer_of) -> tuple:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model.parameters())
    for _ in range(steps):
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)


OPTIMIZERS = {
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_comes_back_whole(tmp_path: Path, name: str) -> None:
    progress = Progress(epoch=3, batches=2, totals=[0.1, 2.0], bad={"a": ("gone", 2)})
    progress.history.append({"epoch": 1, "val_mAP": float("nan"), "lr": 0.1 + 0.2})
    model, optimizer, scaler = trained_for(3, OPTIMIZERS[name])
    path = tmp_path / "resume"
    training_state.save(path, tmp_path / "previous", model, optimizer, scaler, progress)
    drawn = torch.rand(5)
    other, second, scaler = trained_for(0, OPTIMIZERS[name])
    state = training_state.load(path)
    state.restore(other, second, scaler)
    assert torch.equal(torch.rand(5), drawn)  # random numbers go on where they were
    assert all(map(torch.equal, other.state_dict().values(), model.state_dict().values()))
    before, after = optimizer.state_dict()["state"], second.state_dict()["state"]
    assert before.keys() == after.keys()
    for i, values in before.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, after[i][key])
                assert value.stride() == after[i][key].stride()
            else:
                assert value == after[i][key]
    assert repr(state.progress) == repr(progress)  # NaN is not equal to itself


def test_the_networks_preprocessing_is_kept_and_older_states_have_imagenets(tmp_path: Path) -> None:
    model, optimizer, scaler = trained_for(1, OPTIMIZERS["sgd"])
    model.preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    path = tmp_path / "resume"
    training_state.save(path, tmp_path / "previous", model, optimizer, scaler, Progress())
    assert training_state.load(path).preprocessing == model.preprocessing
    tensors, fields = sealed_file.read(path, training_state.FORMAT)
    del fields["preprocessing"]
    sealed_file.write(path, tensors, fields, training_state.FORMAT)
    assert training_state.load(path).preprocessing == Preprocessing()


def test_a_model_is_no_state_and_a_state_no_model(tmp_path: Path) -> None:
    path = tmp_path / "last"
    checkpoint.save(path, factory.build("simple", 2, 16), ModelInfo("simple", 16, ["a", "b"]))
    with pytest.raises(GrigriError, match="not a file of this kind"):
        training_state.load(path)
    model, optimizer, scaler = trained_for(1, OPTIMIZERS["sgd"])
    state = tmp_path / "resume"
    training_state.save(state, tmp_path / "previous", model, optimizer, scaler, Progress())
    with pytest.raises(GrigriError, match="not a file of this kind"):
        checkpoint.load(state, CPU)


@pytest.mark.parametrize("fields", [{}, {"progress": {"colour": 1}}, {"progress": 3}])
def test_a_state_of_wrong_fields_is_a_grigri_error(tmp_path: Path, fields: dict) -> None:
    sealed_file.write(tmp_path / "x", {"a": torch.zeros(1)}, fields, training_state.FORMAT)
    with pytest.raises(GrigriError, match="damaged checkpoint header"):
        training_state.load(tmp_path / "x")
