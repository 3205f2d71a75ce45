import pytest
import torch
from torch import nn

from grigri_fast.models import factory, heads, networks


def test_grigri_takes_any_size_and_starts_as_its_shortcuts() -> None:
    model = factory.build("grigri", 14, 64)
    assert sum(p.numel() for p in model.parameters()) == 4_888_110  # by hand, layer by layer
    for size in (32, 47, 64, 96):
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 14)
    assert all((block.norm2.weight == 0).all() for block in model.stages)
    assert heads.heads(model)[-1][0] == "head.linear"


def test_grigris_logits_are_the_mean_of_the_places_and_a_share_of_the_highest() -> None:
    torch.manual_seed(0)
    model = factory.build("grigri", 3, 64).eval()
    images_NCHW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features_NCHW = model.stages(model.stem(images_NCHW))
        assert features_NCHW.shape == (2, 512, 4, 4)
        weight_KC, bias_K = model.head.linear.weight, model.head.linear.bias
        places_NKP = torch.stack([weight_KC @ image.flatten(1) for image in features_NCHW])
        expected_NK = places_NKP.mean(2) + bias_K + 0.3 * places_NKP.max(2).values
        torch.testing.assert_close(model(images_NCHW), expected_NK, rtol=1e-4, atol=1e-5)


def signal_at_the_end(init: str) -> float:
    """Return how much the last convolution's output differs between images, by its scale."""
    torch.manual_seed(0)
    model = factory.build("simple", 14, 64, init).eval()
    convolutions = next(i for i, m in enumerate(model) if isinstance(m, nn.AdaptiveAvgPool2d))
    out = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        for layer in list(model)[:convolutions]:
            out = layer(out)
    return (out.std(0).mean()).item()


def test_he_passes_the_image_on_where_the_default_loses_it() -> None:
    """Why the report's network from scratch did not learn."""
    assert signal_at_the_end("default") < 1e-3
    assert signal_at_the_end("he") > 0.1


def test_he_leaves_networks_with_norms_and_the_last_layer_alone() -> None:
    def weights(arch: str, init: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return factory.build(arch, 3, 64, init).state_dict()

    plain, he = weights("resnet18", "default"), weights("resnet18", "he")
    assert all(torch.equal(plain[k], he[k]) for k in plain)
    plain, he = weights("simple", "default"), weights("simple", "he")
    same = {k for k in plain if torch.equal(plain[k], he[k])}
    name, _ = heads.heads(factory.build("simple", 3, 64))[-1]
    assert same == {f"{name}.weight", f"{name}.bias"}
    layer = nn.Conv2d(64, 32, 3)
    networks.draw_by_he(nn.Sequential(layer, nn.Linear(2, 2)))
    torch.testing.assert_close(layer.weight.var().item(), 2 / (64 * 9), rtol=0.05, atol=0)
    assert (layer.bias == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["simple", "alexnet", "vgg11", "squeezenet1_1"])
def test_norms_fold_into_the_network_as_it_was(arch: str) -> None:
    torch.manual_seed(0)
    size = 64 if arch != "vgg11" else 32
    model = factory.build(arch, 3, size, train_norms=True).train()
    plain = factory.build(arch, 3, size)
    num_layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in plain.modules())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == num_layers - 1
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
        for _ in range(20):
            model(torch.randn(8, 3, size, size) + 1)  # moves the running statistics
    folded = networks.folded(model)
    plain.load_state_dict(folded.state_dict())  # the same names and shapes
    plain.eval()
    images = torch.randn(5, 3, size, size)
    with torch.no_grad():
        expected, found = model.eval()(images), plain(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())  # it can go on


def test_norms_are_not_added_where_there_are_some() -> None:
    plain, asked = (factory.build("resnet18", 3, 32, train_norms=way) for way in (False, True))
    assert plain.state_dict().keys() == asked.state_dict().keys()


def test_simple_takes_other_sizes_and_pools_nothing_at_its_own() -> None:
    model = factory.build("simple", 3, 64).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    pool = next(m for m in model if isinstance(m, nn.AdaptiveAvgPool2d))
    maps = torch.randn(2, 8, 4, 4)
    assert torch.equal(pool(maps), maps)
