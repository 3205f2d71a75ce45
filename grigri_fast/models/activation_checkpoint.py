"""Activation checkpointing: less memory for more time (Chen et al. 2016, arXiv 1604.06174)."""

import contextlib
from collections.abc import Iterator

import torch
import torch.utils.checkpoint
from torch import nn

from .depthwise import FastGradients


def checkpoint_activations(model: nn.Module, fast: bool = True) -> None:
    """Make the blocks of a network compute their activations again in the backward pass.

    Only the activations between blocks are kept. Gradients are the same, and so are BatchNorm's
    running statistics: the second forward pass leaves them alone. A network of layers without
    blocks (VGG, AlexNet, simple) gains nothing. ``fast``: whether the first forward pass runs in
    :class:`depthwise.FastGradients`, as the second one has to then.
    """
    for block in _blocks(model):
        block.forward = _CheckpointedForward(block, fast)


class _CheckpointedForward:
    """A block's forward pass, checkpointed where gradients are computed."""

    def __init__(self, block: nn.Module, fast: bool) -> None:
        self._plain, self._fast = block.forward, fast
        self._norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return self._plain(*inputs)
        return torch.utils.checkpoint.checkpoint(
            self._plain,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), self._again()),
        )

    @contextlib.contextmanager
    def _again(self) -> Iterator[None]:
        """Compute the same once more, and leave BatchNorm's running statistics alone."""
        kept = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            with FastGradients() if self._fast else contextlib.nullcontext():
                yield
        finally:
            for norm, (momentum, num_batches) in zip(self._norms, kept, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, num_batches


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that a network is a chain of.

    They are the members of its outermost sequences, if it has any (residual blocks, stages, layers
    of an encoder), else its children.
    """
    blocks: list[nn.Module] = []

    def add_blocks_of(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.Sequential | nn.ModuleList):
                blocks.extend(child)
            else:
                add_blocks_of(child)

    add_blocks_of(model)
    if not any(True for block in blocks for _ in block.children()):  # layers alone: no blocks
        blocks = list(model.children())
    return [b for b in blocks if any(True for _ in b.parameters())]
