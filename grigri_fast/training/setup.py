"""The network of a run, and the one builder of a training step.

The builder serves training, memory trials, bench and profile.
Shapes: C classes.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from numpy.typing import NDArray
from torch import nn
from torch.profiler import record_function

from ..config import TrainConfig
from ..models import activation_checkpoint, choice, factory, heads, stages
from ..runtime import distributed
from ..runtime.compute import Compute
from ..runtime.distributed import SINGLE_PROCESS, World
from . import collectives, optim
from .losses import LOSSES
from .session import Session
from .step import TrainStep


def with_network(
    config: TrainConfig, device: torch.device, log: Callable[[str], None]
) -> TrainConfig:
    """Return a config with a network and a size, which are chosen here where it has none.

    Args:
        config: of a run.
        device: where it is trained.
        log: takes a line about what was chosen, and how to choose otherwise.

    Raises:
        GrigriError: as :func:`choice.choose`.
    """
    chosen = choice.choose(config.arch, config.size, config.weights, device.type)
    if chosen.why and World.from_environment().is_first:
        log(f"network: {chosen.why}")
    return replace(config, arch=chosen.arch, size=chosen.size_px)


@dataclass(frozen=True)
class Prepared:
    """A network with all that trains it.

    Attributes:
        model: on the device, in training mode.
        optimizer, scaler: of the trained parameters; the scaler is only enabled in fp16.
        average: moving average of its weights and buffers, None if ``ema`` is 0.
        step: makes a training step of a batch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: optim.WeightAverage | None
    step: TrainStep

    @property
    def evaluated(self) -> nn.Module:
        """The network to evaluate and to store: the average where there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def num_trained(self) -> int:
        """The number of parameters that are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def load_network(session: Session, frequency_C: NDArray) -> nn.Module:
    """Return the network that a run begins with, on the host.

    Weights are loaded if they will not come from a stored state, or from the first process.
    ``frequency_C``: share of the training images with each label; the head's bias begins at its
    log-odds.

    Raises:
        GrigriError: if the weights cannot be loaded, or the network cannot take a size.
    """
    config, num_classes = session.asked, len(frequency_C)
    if config.weights == "none" or session.resumed or not session.world.is_first:
        model = _built(config, num_classes, is_known_to_fit=session.resumed is not None)
    else:
        model = factory.build_pretrained(
            config.arch, num_classes, config.size, config.weights, session.callback.log
        )
    sizes = {"--start-size": config.start_size, "--test-size": config.test_size}
    for flag, size_px in ({} if session.resumed else sizes).items():
        factory.check_size(model, config.arch, size_px, flag, config.size)
    heads.start_bias_at_log_odds(model, frequency_C)
    if session.resumed:
        model.preprocessing = session.resumed.state.preprocessing
    model.preprocessing = session.world.from_first(lambda: model.preprocessing)
    return model


def _built(config: TrainConfig, num_classes: int, is_known_to_fit: bool = False) -> nn.Module:
    """Return the run's network with random weights, on the host."""
    return factory.build(
        config.arch,
        num_classes,
        config.size,
        config.init or "default",
        bool(config.train_norms),
        is_known_to_fit=is_known_to_fit,
    )


def untrained(config: TrainConfig, num_classes: int, compute: Compute) -> nn.Module:
    """Return the run's network with random weights, where :func:`prepare` wants it."""
    return placed(_built(config, num_classes), config, compute)


def placed(model: nn.Module, config: TrainConfig, compute: Compute) -> nn.Module:
    """Return a network after moving it to the device and, with ``fast``, to its memory format."""
    model.to(compute.device)
    return model.to(memory_format=compute.memory_format) if config.fast else model


def prepare(
    model: nn.Module,
    config: TrainConfig,
    compute: Compute,
    *,
    world: World = SINGLE_PROCESS,
    use_graph: bool = True,
    note: Callable[[str], None] = lambda text: None,
    phase: Callable[[str], AbstractContextManager] = record_function,
) -> Prepared:
    """Return a network with its optimizer, average and training step.

    Args:
        model: the network, on the device (see :func:`placed`); it is changed in place.
        config: resolved, with a batch size; ``compile`` counts only if it is ``on``.
        compute: the device and number format to train on and in.
        world: the processes that make each step.
        use_graph: whether the step may become a CUDA graph.
        note, phase: see :class:`TrainStep`.
    """
    freeze(model, config)
    if config.activation_checkpointing:
        activation_checkpoint.checkpoint_activations(model, config.fast)
    replica = distributed.replicate(model, world, compute.device)
    optimizer = optim.make_optimizer(
        config,
        [p for p in model.parameters() if p.requires_grad],
        [p for _, layer in heads.heads(model) for p in layer.parameters()],
        [list(stage.values()) for stage in stages.stages(model)],
    )
    average = optim.averaged(model, config.ema) if config.ema else None
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.amp == "fp16")
    step = TrainStep(
        replica,
        optimizer,
        scaler,
        LOSSES[config.loss],
        device=compute.device,
        amp=compute.amp,
        batch_size=config.batch_size,
        fast=config.fast,
        # Checkpointed activations ask for the state of the random numbers, which a graph has not.
        use_graph=use_graph and not config.activation_checkpointing,
        micro_batch_size=config.micro_batch_size,
        compiled=compiled(model) if config.compile == "on" else None,
        note=note,
        phase=phase,
        world=world,
    )
    set_training(model, config)
    return Prepared(model, optimizer, scaler, average, step)


def freeze(model: nn.Module, config: TrainConfig) -> None:
    """Let the parts of a network stay as they are that a resolved ``config`` names.

    Raises:
        GrigriError: if the network has fewer stages than are to be frozen.
    """
    if config.freeze_backbone:
        heads.freeze_backbone(model)
    else:
        device = next(model.parameters()).device
        stages.freeze(model, num_frozen(model, config, device))


def num_frozen(model: nn.Module, config: TrainConfig, device: torch.device) -> int:
    """Return how many stages stay as they are in a training on ``device``."""
    if config.freeze_stages is not None:
        return config.freeze_stages
    return stages.num_to_freeze(model, device)


def set_training(model: nn.Module, config: TrainConfig) -> None:
    """Switch a network to training mode, but what a resolved ``config`` freezes."""
    heads.set_training(model, config.freeze_backbone, bool(config.freeze_norms))


def prepare_run(session: Session, config: TrainConfig, network: nn.Module) -> Prepared:
    """Prepare a run's network; if the run goes on, with the weights and state that were stored."""
    compute, world, log = session.compute, session.world, session.callback.log
    network = placed(network, config, compute)
    prepared = prepare(network, config, compute, world=world, note=log)
    log(
        f"{config.arch} at {config.size} px, weights {config.weights}:"
        f" {prepared.num_trained:,} parameters to train on {compute.device} in {compute.amp}"
    )
    if config.freeze_stages and config.epochs:
        log(stages.in_words(prepared.model, config.freeze_stages))
    if world.is_shared:
        log(collectives.describe(world, config.batch_size))
    if session.resumed:
        session.resumed.state.restore(
            prepared.model, prepared.optimizer, prepared.scaler, prepared.average
        )
    return prepared


def compiled(model: nn.Module) -> nn.Module:
    """Return the model as torch.compile makes it, without its warning where there is no CUDA."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    return torch.compile(model)
