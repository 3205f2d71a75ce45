"""What goes through a network comes out as it should: logits, and features beside them."""

import numpy as np
import pytest
import torch

from grigri_fast.inference import forward
from grigri_fast.models import factory, heads
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
