"""What goes through a network comes out as it should: logits, and features beside them."""

import numpy as np
import pytest
import torch

from grigri_fast.inference import forward
from grigri_fast.models import factory, fold, heads
from grigri_fast.runtime.compute import Compute


@pytest.fixture
def images() -> torch.Tensor:
    return forward.random_images(5, 32, torch.device("cpu"))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("arch", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_features_are_what_the_head_takes_in(arch: str, flip: bool, images) -> None:
    torch.manual_seed(0)
    model = factory.build(arch, 3, 64).eval()
    logits = forward.logits_of(model, Compute.resolve("cpu", "fp32", 1), flip=flip)
    before = logits(images)
    both = forward.with_features(logits, model)(images)
    assert torch.equal(both[:, :3], before) and both.dtype == torch.float32
    ((_, head),) = heads.heads(model)
    assert both.shape[1] == 3 + head.weight.shape[1]
    if isinstance(head, torch.nn.Linear):  # of a mean, the mean of the logits
        with torch.inference_mode():
            assert torch.allclose(head(both[:, 3:]), before, atol=1e-5)


def test_the_forward_pass_itself_stays_as_it_is(images) -> None:
    model = factory.build("shufflenet_v2_x0_5", 3, 32).eval()
    logits = forward.logits_of(model, Compute.resolve("cpu", "fp32", 1))
    both = forward.with_features(logits, model)
    first = both(images)
    assert logits(images).shape == (5, 3)
    assert np.array_equal(both(images), first)


@pytest.mark.parametrize("amp, tolerance", [("fp32", 1e-4), ("bf16", 0.05)])
def test_what_evaluates_faster_computes_the_same(amp: str, tolerance: float, images) -> None:
    """Of logits around 1; without norms, and in bf16 with the bits of autocast."""
    torch.manual_seed(0)
    model = factory.build("grigri", 3, 32, init="he").eval()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    here = Compute.resolve("cpu", amp, 1)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = forward.prepared(model, here, 32)
    expected, found = forward.logits_of(model, here)(images), forward.logits_of(fast, here)(images)
    assert not torch.equal(found, expected)  # it is another network
    assert torch.allclose(found, expected, atol=tolerance * float(expected.abs().max()))
    assert torch.equal(forward.logits_of(fold.folded(model, 32), here)(images), found)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[name]) and tensor.dtype == kept[name].dtype
    limited = Compute.resolve("cpu", amp, 1, "8GiB")
    assert forward.prepared(model, limited, 32) is model  # a copy would take memory
