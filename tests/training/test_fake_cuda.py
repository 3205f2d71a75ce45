"""The hot loop on a GPU that is not there: one device for all, and nothing that is waited for."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from emulated_graph import SmallNetwork
from fake_cuda import CUDA, WaitCounter, WithoutDriver, fake_cuda, to_fake_cuda  # noqa: F401

from grigri_fast.config import TrainConfig, resolve
from grigri_fast.models import normalize
from grigri_fast.training import optim
from grigri_fast.training.augment import Augmentation
from grigri_fast.training.losses import LOSSES, labels_of
from grigri_fast.training.step import TrainStep

OPTIMIZERS = ["sgd", "adam", "adamw", "amsgrad", "rmsprop", "muon"]
N, SIDE, C = 6, 8, 3


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images, targets and rows, as the loader and the loop have them on the device."""
    images_NHWC = torch.empty(N, SIDE, SIDE, 3, dtype=torch.uint8, device=CUDA)
    return images_NHWC, torch.empty(N, C, device=CUDA), torch.arange(N, device=CUDA)


def config_of(**options: object) -> TrainConfig:
    return resolve(TrainConfig(data="-", recipe="report", momentum=0.9, lr=0.01, **options))


class Loop:
    """What the loop does with a batch: rate and momentum, augmentation, step, average."""

    def __init__(self, mode: WithoutDriver, amp: str = "bf16", **options: object) -> None:
        self.config = config_of(**options)
        self.model = to_fake_cuda(SmallNetwork()).train()
        mode.trained = list(self.model.parameters())
        self.optimizer = optim.make_optimizer(self.config, self.model.parameters())
        self.average = optim.averaged(self.model, 0.9)
        self.augmentation = Augmentation(self.config, 20, CUDA, normalize.IMAGENET_MEAN)
        self.step = TrainStep(
            self.model,
            self.optimizer,
            torch.amp.GradScaler("cuda", enabled=amp == "fp16"),
            LOSSES[self.config.loss],
            device=CUDA,
            amp=amp,
            batch_size=N,
            use_graph=False,
        )
        self.augmentation.start_epoch(1)
        self.step.start_epoch([], 0, 0)

    def make(self, position: int, labels: torch.Tensor | None = None) -> None:
        images_NHWC, targets_NC, rows_N = batch()
        optim.set_lr_and_momentum(self.optimizer, 0.01 / position, 0.9)
        targets_NC = targets_NC if labels is None else labels
        self.step(*self.augmentation(images_NHWC, targets_NC, rows_N, position))
        self.average.update_parameters(self.model)


def waits_of(work: Callable[[], object]) -> list[str]:
    with WaitCounter() as counter:
        work()
    return counter.waits


def test_what_waits_is_counted_and_mixed_devices_raise(fake_cuda: WithoutDriver) -> None:  # noqa: F811
    on_gpu, on_host = torch.zeros(3, device=CUDA), torch.zeros(3)
    for work in (
        lambda: on_host.to(CUDA),
        lambda: on_host.to(CUDA, non_blocking=True),  # from pageable memory it waits, too
        lambda: on_gpu.cpu(),
        lambda: on_gpu.copy_(on_host),
        lambda: torch.tensor([1.0]).to(CUDA),
        lambda: torch.tensor(1.0, device=CUDA),
        lambda: on_gpu.new_tensor([1.0, 2.0]),
    ):
        assert len(waits_of(work)) == 1
    for work in (lambda: on_gpu[0].item(), lambda: bool((on_gpu > 0).all())):
        with pytest.raises(AssertionError, match="waits"):
            waits_of(work)
    for work in (
        lambda: on_gpu.mul_(2.0),
        lambda: on_gpu.copy_(on_gpu + 1),
        lambda: torch.full((), 0.5, device=CUDA),
        lambda: on_gpu[1:].to(torch.float16),
    ):
        assert waits_of(work) == []
    with pytest.raises(Exception, match="device"):
        on_gpu + on_host


@pytest.mark.parametrize("amp", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_waits_for_the_device(
    fake_cuda: WithoutDriver,  # noqa: F811
    optimizer: str,
    amp: str,
) -> None:
    loop = Loop(fake_cuda, amp, optimizer=optimizer)
    loop.make(1)  # constants are copied once
    assert waits_of(lambda: [loop.make(position) for position in (2, 3)]) == []
    state = [v for values in loop.optimizer.state.values() for v in values.values()]
    assert state and all(value.device == CUDA for value in state)


@pytest.mark.parametrize("name", ["color", "erasing", "mixup", "cutmix", "label_smoothing"])
def test_no_augmentation_waits_for_the_device(fake_cuda: WithoutDriver, name: str) -> None:  # noqa: F811
    loop = Loop(fake_cuda, **{name: 1.0 if name == "cutmix" else 0.5})
    loop.make(1)
    assert waits_of(lambda: [loop.make(position) for position in range(2, 6)]) == []


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_no_loss_and_no_unknown_label_waits_for_the_device(
    fake_cuda: WithoutDriver,  # noqa: F811
    loss: str,
) -> None:
    loop = Loop(fake_cuda, loss=loss, mixup=0.4, label_smoothing=0.1)
    unknown_NC = np.zeros((N, C), dtype=bool)
    unknown_NC[0] = True
    of_host = labels_of(np.zeros((N, C), np.float32), unknown_NC, np.arange(N))
    labels = torch.empty(of_host.shape, device=CUDA)
    loop.make(1, labels)
    assert waits_of(lambda: loop.make(2, labels)) == []
