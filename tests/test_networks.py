import torch
from torch import nn

from grigri_fast import models, networks


def test_grigri_takes_any_size_and_starts_as_its_shortcuts() -> None:
    model = models.build("grigri", 14, 64)
    assert sum(p.numel() for p in model.parameters()) == 4_888_110  # by hand, layer by layer
    for size in (32, 47, 64, 96):
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 14)
    assert all((block.norm2.weight == 0).all() for block in model.stages)
    assert models.head(model)[0] == "head"


def signal_at_the_end(init: str) -> float:
    """Return how much the last convolution's output differs between images, by its scale."""
    torch.manual_seed(0)
    model = models.build("simple", 14, 64, init).eval()
    convolutions = next(i for i, m in enumerate(model) if isinstance(m, nn.Flatten))
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
        return models.build(arch, 3, 64, init).state_dict()

    plain, he = weights("resnet18", "default"), weights("resnet18", "he")
    assert all(torch.equal(plain[k], he[k]) for k in plain)
    plain, he = weights("simple", "default"), weights("simple", "he")
    same = {k for k in plain if torch.equal(plain[k], he[k])}
    name, _ = models.head(models.build("simple", 3, 64))
    assert same == {f"{name}.weight", f"{name}.bias"}
    layer = nn.Conv2d(64, 32, 3)
    networks.draw_by_he(nn.Sequential(layer, nn.Linear(2, 2)))
    torch.testing.assert_close(layer.weight.var().item(), 2 / (64 * 9), rtol=0.05, atol=0)
    assert (layer.bias == 0).all()
