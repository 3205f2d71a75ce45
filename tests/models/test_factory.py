import re
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from grigri_fast.errors import GrigriError
from grigri_fast.models import factory, heads, normalize, weights


def test_simple_is_the_reports_network() -> None:
    model = factory.build("simple", 14, 128)
    assert sum(p.numel() for p in model.parameters()) == 11_098_110
    shapes = []
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.Linear):
            layer.register_forward_hook(lambda m, i, out: shapes.append(tuple(out.shape[1:])))
    model(torch.zeros(1, 3, 128, 128))
    assert shapes == [
        *[(32, 128, 128)] * 2,
        (32, 64, 64),
        *[(64, 64, 64)] * 2,
        (64, 32, 32),
        *[(128, 32, 32)] * 3,
        (128, 16, 16),
        *[(256, 16, 16)] * 3,
        (256, 8, 8),
        *[(512, 8, 8)] * 3,
        (100,),
        (100,),
        (14,),
    ]
    assert model[models_index(model, nn.Linear)].in_features == 32768


def models_index(model: nn.Sequential, kind: type) -> int:
    return next(i for i, layer in enumerate(model) if isinstance(layer, kind))


FAMILIES = {
    "resnet18": 64,
    "resnet34": 64,
    "resnet50": 64,
    "wide_resnet50_2": 64,
    "alexnet": 64,
    "vgg11": 32,
    "densenet121": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "mnasnet0_5": 32,
    "efficientnet_b0": 32,
    "squeezenet1_1": 64,
    "shufflenet_v2_x0_5": 32,
    "convnext_tiny": 32,
    "regnet_y_400mf": 32,
    "googlenet": 32,
    "inception_v3": 96,
    "swin_t": 32,
    "vit_b_32": 64,
    "maxvit_t": 224,
    "simple": 32,
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", FAMILIES)
def test_families_train_with_a_new_head(arch: str) -> None:
    size_px = FAMILIES[arch]
    model = factory.build(arch, 5, size_px)
    frequency_C = np.array([0.5, 0.1, 0.01, 0.0, 1.0], dtype=np.float32)
    heads.start_bias_at_log_odds(model, frequency_C)
    name, layer = heads.heads(model)[-1]
    nn.init.zeros_(layer.weight)
    model.eval()
    with torch.no_grad():
        logits_NC = model(torch.randn(2, 3, size_px, size_px))
    assert logits_NC.shape == (2, 5)
    expected = np.clip(frequency_C, 1e-3, 1 - 1e-3)
    np.testing.assert_allclose(torch.sigmoid(logits_NC)[0], expected, rtol=1e-3)
    heads.freeze_backbone(model)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{name}.weight", f"{name}.bias"}


def test_every_architecture_of_torchvision_is_named() -> None:
    names = factory.architectures()
    assert names[:2] == ["grigri", "simple"]
    assert {"resnet18", "resnet34", "resnet50", "wide_resnet50_2", "vit_b_16"} <= set(names)
    assert len(names) == len(torchvision.models.list_models(module=torchvision.models)) + 2


@pytest.mark.parametrize(
    "arch, size_px, says",
    [
        ("resnet19", 64, "no such architecture; did you mean resnet1"),
        ("", 64, "no such architecture"),
        ("fasterrcnn_resnet50_fpn", 64, "no such architecture"),
        ("alexnet", 32, "--arch alexnet cannot take --size 32"),
        ("inception_v3", 64, "cannot take --size 64"),
        ("vit_b_32", 100, "cannot take --size 100"),
        ("maxvit_t", 200, "cannot take --size 200"),
        ("simple", 8, "cannot take --size 8"),
    ],
)
def test_wrong_names_and_sizes(arch: str, size_px: int, says: str) -> None:
    with pytest.raises(GrigriError) as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about the empty layer of a size too small
        factory.build(arch, 3, size_px)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_frozen_backbone_does_not_move() -> None:
    model = factory.build("resnet18", 3, 32)
    heads.freeze_backbone(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    heads.set_training(model, frozen_backbone=True)
    assert model.fc.training
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}
    model.requires_grad_(True)
    heads.set_training(model, frozen_backbone=False)
    assert all(m.training for m in model.modules())


# ---------------------------------------------------------------------------- weight files


def write_weights(path: Path, state: dict) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    model(torch.randn(4, 3, 32, 32))  # moves the BatchNorm buffers
    return model.state_dict()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_weights_of_a_file(tmp_path: Path, state, name: str) -> None:
    file = write_weights(tmp_path / name, state)
    model = factory.build_pretrained("resnet18", 14, 64, str(file))
    for key, value in model.state_dict().items():
        if key.startswith("fc."):
            assert len(value) == 14
        else:
            assert torch.equal(value, state[key])


def test_weights_with_another_head_in_the_references_wrapper(tmp_path: Path) -> None:
    model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=10)
    file = write_weights(tmp_path / "w.pth", {"model": model.state_dict()})
    loaded = factory.build_pretrained("mobilenet_v3_small", 4, 32, str(file))
    assert loaded(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert torch.equal(loaded.features[0][0].weight, model.features[0][0].weight)


@pytest.mark.parametrize("arch, size_px", [("inception_v3", 96), ("googlenet", 64)])
def test_auxiliary_heads_are_read_and_taken_off(tmp_path: Path, arch: str, size_px: int) -> None:
    original = torchvision.models.get_model(arch, weights=None, init_weights=False)
    file = write_weights(tmp_path / "w.pth", original.state_dict())
    loaded = factory.build_pretrained(arch, 4, size_px, str(file))
    loaded.train()
    assert loaded(torch.zeros(2, 3, size_px, size_px)).shape == (2, 4)


@pytest.mark.slow
def test_a_vision_transformer_at_another_size(tmp_path: Path) -> None:
    original = torchvision.models.vit_b_32(weights=None)
    file = write_weights(tmp_path / "w.pth", original.state_dict())
    loaded = factory.build_pretrained("vit_b_32", 4, 96, str(file))
    assert loaded.encoder.pos_embedding.shape[1] == 3 * 3 + 1
    assert loaded(torch.zeros(2, 3, 96, 96)).shape == (2, 4)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), "missing key layer1.0.conv1.weight"),
        (lambda s: s.pop("fc.weight"), "missing key fc.weight (is it a resnet18?)"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected key extra"),
        (lambda s: s.update({"conv1.weight": torch.zeros(1)}), "conv1.weight has shape (1,)"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, state, change, says: str) -> None:
    state = dict(state)
    change(state)
    file = write_weights(tmp_path / "w.pth", state)
    with pytest.raises(GrigriError) as error:
        factory.build_pretrained("resnet18", 3, 64, str(file))
    assert says in str(error.value) and str(file) in str(error.value)


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.write_text, (self.trace, "executed"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100, b"\xff\xff\xff\xff\0\0\0\0{}"])
def test_files_that_are_no_weights(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(GrigriError) as error:
        factory.build_pretrained("resnet18", 3, 64, str(file))
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_code_in_a_weight_file_is_not_executed(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"fc.weight": Evil(tmp_path / "trace")}, file)
    with pytest.raises(GrigriError, match="not a file of weights alone"):
        factory.build_pretrained("resnet18", 3, 64, str(file))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, torch.zeros(3)])
def test_weight_files_of_something_else(tmp_path: Path, content) -> None:
    file = tmp_path / "w.pth"
    torch.save(content, file)
    with pytest.raises(GrigriError, match="expected a state dict"):
        weights.read_state(file)


def test_a_weight_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match=r"no such file .imagenet, none, a file or a folder"):
        factory.build_pretrained("resnet18", 3, 64, str(tmp_path / "w.pth"))


# ----------------------------------------------------------------------- ImageNet weights


def test_imagenet_weights_come_from_torchvisions_cache(tmp_path, state, monkeypatch) -> None:
    # The real path: torch.hub finds the file under the name of torchvision's URL.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[-1])
    model = factory.build_pretrained("resnet18", 3, 64, "imagenet")
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    assert len(model.fc.weight) == 3


def test_a_download_that_fails_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch, capfd
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(GrigriError) as error:
        factory.build_pretrained("resnet18", 3, 64, "imagenet")
    message = str(error.value)
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    assert f"fetch {url} elsewhere" in message
    assert f"put it at {tmp_path / 'hub' / 'checkpoints' / url.rsplit('/', 1)[-1]}" in message
    assert "--weights none" in message
    assert capfd.readouterr().err == ""


def test_there_are_no_imagenet_weights_for_simple() -> None:
    with pytest.raises(GrigriError, match="use --weights none or a file"):
        factory.build_pretrained("simple", 3, 64, "imagenet")


# ------------------------------------------------------------- families with ways of their own


@pytest.mark.parametrize("arch", ["squeezenet1_0", "squeezenet1_1"])
def test_an_untrained_squeezenet_predicts_the_frequencies_and_can_learn(arch: str) -> None:
    """torchvision puts a ReLU behind the last layer: logits below 0 and gradients are lost."""
    model = factory.build(arch, 2, 64)
    frequency_C = np.array([0.1, 0.02])
    heads.start_bias_at_log_odds(model, frequency_C)
    layer = heads.heads(model)[-1][1]
    nn.init.zeros_(layer.weight)
    model.eval()
    logits_NC = model(torch.randn(2, 3, 64, 64))
    loss = nn.functional.binary_cross_entropy_with_logits(logits_NC, torch.eye(2))
    loss.backward()
    found = torch.sigmoid(logits_NC).detach().numpy()
    assert layer.bias.grad.abs().max() > 0
    np.testing.assert_allclose(found, [frequency_C] * 2, rtol=1e-4)


def with_old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a DenseNet's weights under the names that the published files use (norm.1)."""
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    return {pattern.sub(r"\1.\2", key): value for key, value in state.items()}


@pytest.mark.parametrize("weights", ["imagenet", "file"])
def test_densenets_published_weights_load(tmp_path: Path, monkeypatch, weights: str) -> None:
    state = torchvision.models.densenet121(weights=None).state_dict()
    old = with_old_names(state)
    assert set(old) != set(state)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: old)
    torch.save(old, tmp_path / "w.pth")
    place = "imagenet" if weights == "imagenet" else str(tmp_path / "w.pth")
    model = factory.build_pretrained("densenet121", 3, 32, place)
    key = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(model.state_dict()[key], state[key])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("arch", ["mnasnet0_5", "mnasnet1_0"])
def test_mnasnet_weights_of_a_file(tmp_path: Path, arch: str, suffix: str) -> None:
    """Its loading hook asks for a version that a plain dict of tensors does not have."""
    state = torchvision.models.get_model(arch, weights=None).state_dict()
    file = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state, file)
    else:
        safetensors.torch.save_file(state, file)
    model = factory.build_pretrained(arch, 3, 32, str(file))
    assert torch.equal(model.state_dict()["layers.0.weight"], state["layers.0.weight"])


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_imagenet_weights_get_inputs_on_the_scale_they_were_trained_with(
    tmp_path: Path, arch: str
) -> None:
    """torchvision sets transform_input=True whenever it loads these weights."""
    options = {"weights": None, "num_classes": 3, "init_weights": False}
    reference = torchvision.models.get_model(arch, transform_input=True, **options)
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    ours = factory.build_pretrained(arch, 3, 96, str(tmp_path / "w.pth"))
    images = normalize.normalize(torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8))
    seen = []
    for model in (ours.eval(), reference.eval()):
        first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        with torch.no_grad():
            model(images)
    torch.testing.assert_close(*seen)


def test_a_head_that_is_no_matrix_is_an_error(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    for weight in (torch.tensor(1.0), torch.zeros(1000), torch.zeros(0, 512)):
        torch.save(state | {"fc.weight": weight}, tmp_path / "w.pth")
        with pytest.raises(GrigriError, match=r"fc\.(weight|bias)"):
            factory.build_pretrained("resnet18", 3, 32, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("arch", ["vit_b_32", "densenet121", "mobilenet_v3_small", "googlenet"])
def test_a_frozen_backbone_keeps_every_buffer(arch: str) -> None:
    model = factory.build(arch, 3, 64)
    heads.freeze_backbone(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    heads.set_training(model, frozen_backbone=True)
    model(torch.randn(4, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
