import copy

import pytest
import torch

from grigri_fast.models import activation_checkpoint, factory, normalize


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch, size_px",
    [("resnet18", 32), ("densenet121", 32), ("vit_b_16", 32), ("squeezenet1_1", 32)],
)
def test_checkpointed_activations_change_nothing_but_memory(arch: str, size_px: int) -> None:
    """Gradients and BatchNorm's running statistics are the same, bit for bit."""
    torch.manual_seed(0)
    images_NHWC = torch.randint(0, 256, (4, size_px, size_px, 3), dtype=torch.uint8)
    plain = factory.build(arch, 3, size_px).train()
    other = copy.deepcopy(plain)
    activation_checkpoint.checkpoint_activations(other)
    kept = []
    for model in (plain, other):
        for _ in range(2):
            torch.manual_seed(1)  # of dropout
            saved = []
            hooks = torch.autograd.graph.saved_tensors_hooks(
                lambda t, saved=saved: saved.append(t.nbytes) or t, lambda t: t
            )
            with hooks:
                loss = model(normalize.normalize(images_NHWC)).sum()
            loss.backward()
        kept.append(sum(saved))
        with torch.no_grad():
            assert torch.isfinite(model.eval()(normalize.normalize(images_NHWC))).all()
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(plain.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)
    assert kept[1] < 0.4 * kept[0]
    assert plain.state_dict().keys() == other.state_dict().keys()
