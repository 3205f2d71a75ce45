"""One training step, with nothing in it that makes the host wait for the device.

On a GPU the whole step becomes a CUDA graph after a few steps: one launch instead of hundreds,
which is what a batch of 32 is bound by. The last batch of an epoch, which is smaller, has a graph
of its own. So learning rate, momentum and the sums of the epoch live on the device. Whether loss
and gradients are finite is decided there, too: the device leaves out a step where they are not, and
the host learns of it when it reads the sums.

Shapes: N images of a batch, C classes.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from ..models import normalize
from ..models.depthwise import FastGradients
from ..runtime import compute, memory
from ..runtime.distributed import SINGLE_PROCESS, World
from . import optim
from .graphs import CudaGraphs, Graphs
from .losses import Loss, parted

# Before the first capture, as torch.cuda.graph asks for; after that one step of each batch size,
# for which cuDNN may choose other kernels.
_WARM_UP_STEPS = 3


class Sums(NamedTuple):
    """The sums that steps keep on the device, in this order.

    Attributes:
        loss: sum of loss x images, over the finite steps of the epoch, as the next five are.
        tp, fp, fn: labels that were predicted rightly, predicted wrongly, missed (at 0.5).
        right: images whose labels were all right.
        num_images: images.
        num_skipped: steps that were left out, in the whole run.
        streak: of those, how many in a row until now.
        bad_step: number of the first step left out since they were last read (see
            ``TrainStep.number``), -1 for none.
        bad_loss, bad_norm: its loss and gradient norm.
    """

    loss: float
    tp: float
    fp: float
    fn: float
    right: float
    num_images: float
    num_skipped: float
    streak: float
    bad_step: float
    bad_loss: float
    bad_norm: float

    @property
    def totals(self) -> list[float]:
        """Those that make the epoch's training scores: loss, tp, fp, fn and right."""
        return list(self[: AT.num_images])


AT = Sums(*range(len(Sums._fields)))  # the place of each on the device
_NUM_PER_EPOCH = AT.num_skipped  # those before it begin anew with each epoch


class _Captured(NamedTuple):
    """A captured step: the tensors that it reads, what repeats it, and the gradients it leaves."""

    images_NHWC: torch.Tensor
    labels: torch.Tensor
    replay: Callable[[], None]
    gradients: list[torch.Tensor]


class TrainStep:
    """Forward, loss, backward, update, sums: call it with a batch.

    Args:
        model: in training mode while steps are made; it carries its preprocessing.
        optimizer: over the parameters that are trained.
        scaler: of fp16, disabled otherwise.
        loss_of: loss of logits, targets and perhaps weights.
        device, amp: what to compute on and how.
        batch_size: images in a full batch; smaller ones are made without compilation.
        fast: channels_last where it helps and, on a GPU, CUDA graphs.
        use_graph: whether there may be CUDA graphs; not with activation checkpointing, which asks
            for the state of the random numbers.
        graphs: what captures steps, by default CUDA's graphs on a GPU.
        note: takes a line that the user should read: that a network cannot be captured.
        compiled: the model as torch.compile has made it, for full batches.
        micro_batch_size: images that go through the model at once, all by default. Gradients are
            those of the whole batch; BatchNorm sees each micro-batch alone.
        phase: returns the context of a part of the step (forward, backward, metrics, optimizer), so
            that it can be measured.
        world: the processes that make each step. With several, the model is what
            ``distributed.replicate`` returns, there are no CUDA graphs, for which DDP would need
            much, and the sums and the decision to leave a step out are those of all.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        loss_of: Loss,
        *,
        device: torch.device,
        amp: str,
        batch_size: int,
        fast: bool = True,
        use_graph: bool = True,
        graphs: Graphs | None = None,
        note: Callable[[str], None] = lambda text: None,
        compiled: nn.Module | None = None,
        micro_batch_size: int | None = None,
        phase: Callable[[str], AbstractContextManager] = record_function,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self._world = world
        self._statistics = [b for b in model.buffers() if b.is_floating_point() and b.ndim == 1]
        self._model, self._optimizer, self._scaler = model, optimizer, scaler
        self._pixels = normalize.preprocessing_of(model)
        self._compiled = model if compiled is None else compiled
        self._loss_of, self._device, self._amp = loss_of, device, amp
        self._batch_size, self._fast = batch_size, fast
        plain = torch.contiguous_format
        self._memory_format = compute.memory_format(device, amp) if fast else plain
        if graphs is None and device.type == "cuda":
            graphs = CudaGraphs(device)
        self._graphs = graphs if fast and use_graph and not world.is_shared else None
        self._note = note
        self._micro_batch_size, self._phase = micro_batch_size or batch_size, phase
        self._trained = [p for group in optimizer.param_groups for p in group["params"]]
        # Where an optimizer decides itself, it leaves the step out where this is 1, on the device.
        self._decides_itself = optim.leaves_out(optimizer)
        self._left_out = torch.zeros((), device=device)
        if self._decides_itself:
            optimizer.found_inf = self._left_out
        self._sums = torch.zeros(len(AT), dtype=torch.float64, device=device)
        self._sums[AT.bad_step].fill_(-1)
        self._number = torch.zeros((), dtype=torch.float64, device=device)
        self.number = 0  # steps that were made, finite or not
        self._captured: dict[torch.Size, _Captured] = {}  # by the shape of the images
        self._made: set[torch.Size] = set()  # shapes of which a step has been made without a graph

    @property
    def num_graphs(self) -> int:
        """How many CUDA graphs there are: none, that of full batches, that of the last batch."""
        return len(self._captured)

    def start_epoch(self, totals: list[float], num_images: int, num_skipped: int) -> None:
        """Set the sums to those of an epoch that begins, or goes on; no totals are zeros."""
        start = [*(totals or [0.0] * AT.num_images), num_images, num_skipped]
        self._sums[: len(start)].copy_(torch.tensor(start, dtype=torch.float64))

    def read_sums(self) -> Sums:
        """Return the sums; the host waits for the device here."""
        sums = Sums(*self._sums.tolist())
        if sums.bad_step >= 0:
            self._sums[AT.bad_step].fill_(-1)
        return sums

    def __call__(
        self,
        images_NHWC: torch.Tensor,
        labels: torch.Tensor,
        num_images: int | None = None,
    ) -> None:
        """Make a step, unless loss or gradient are not finite.

        Args:
            images_NHWC: uint8 RGB on the device; with several processes there may be none.
            labels: targets (N, C), or those with weights (N, C, 2), on the device (see ``losses``).
            num_images: images of the step, over all processes.
        """
        self.number += 1
        if self._graphs is None:
            self._make(images_NHWC, labels, num_images)
            return
        with self._graphs.on_stream():
            captured = self._captured_for(images_NHWC, labels)
            if captured is None:
                self._make(images_NHWC, labels, num_images)
            else:
                self._repeat(captured, images_NHWC, labels)

    def _make(
        self, images_NHWC: torch.Tensor, labels: torch.Tensor, num_images: int | None
    ) -> None:
        """Make a step, one operation after the other."""
        self._made.add(images_NHWC.shape)
        model = self._model_for(images_NHWC)
        self.compute_gradients(model, images_NHWC, labels, num_images)
        self._update()

    def _model_for(self, images_NHWC: torch.Tensor) -> nn.Module:
        return self._compiled if len(images_NHWC) == self._batch_size else self._model

    def _captured_for(self, images_NHWC: torch.Tensor, labels: torch.Tensor) -> _Captured | None:
        """Return the captured step of such batches; None if this one is to be made without."""
        shape = images_NHWC.shape
        if shape in self._captured:
            return self._captured[shape]
        if shape not in self._made:
            # The memory of graphs is needed: they are captured again, when all sizes are known.
            self._drop_graphs()
            return None
        if self.number <= _WARM_UP_STEPS:
            return None
        if len(self._captured) == 2:  # one of full batches, and one of others
            self._drop_graphs()
            return None
        return self._capture(images_NHWC, labels)

    def _capture(self, images_NHWC: torch.Tensor, labels: torch.Tensor) -> _Captured | None:
        """Record a step; nothing is computed yet. None if the network cannot be captured."""
        images_NHWC, labels = torch.empty_like(images_NHWC), torch.empty_like(labels)
        is_whole = optim.is_on_device(self._optimizer)

        def work() -> None:
            self.compute_gradients(self._model_for(images_NHWC), images_NHWC, labels)
            if is_whole:
                self._update()

        self._optimizer.zero_grad(set_to_none=True)
        try:
            replay = self._graphs.capture(work)
        except Exception as e:  # as many kinds as there are operations that cannot be captured
            if memory.is_out_of_memory(e):
                raise
            self._drop_graphs()
            self._graphs = None
            reason = str(e.__context__ or e).strip().partition("\n")[0][:200]
            self._note(
                f"this network cannot be captured as a CUDA graph ({reason or type(e).__name__});"
                f" its steps are made without one"
            )
            return None
        gradients = [] if is_whole else [p.grad for p in self._trained]
        self._optimizer.zero_grad(set_to_none=True)
        self._captured[images_NHWC.shape] = _Captured(images_NHWC, labels, replay, gradients)
        return self._captured[images_NHWC.shape]

    def _repeat(self, captured: _Captured, images_NHWC: torch.Tensor, labels: torch.Tensor) -> None:
        """Make a step that was captured, of other images."""
        captured.images_NHWC.copy_(images_NHWC)
        captured.labels.copy_(labels)
        captured.replay()
        if captured.gradients:
            for parameter, gradient in zip(self._trained, captured.gradients, strict=True):
                parameter.grad = gradient  # another graph may have left another one
            self._update()

    def _drop_graphs(self) -> None:
        """Give back the memory of all graphs; never of one alone (see ``Graphs.release``)."""
        self._optimizer.zero_grad(set_to_none=True)  # gradients may be in it
        if self._captured:
            self._captured.clear()
            self._graphs.release()

    def compute_gradients(
        self,
        model: nn.Module,
        images_NHWC: torch.Tensor,
        labels: torch.Tensor,
        num_images: int | None = None,
    ) -> None:
        """Compute the gradients, find out whether they are finite, and add to the sums.

        The parts are the phases forward, backward and metrics.
        """
        self._optimizer.zero_grad(set_to_none=True)
        num_own = len(images_NHWC)
        num_images = num_images or num_own
        if not num_own:  # DDP wants a backward pass of every process: here one of weight 0
            images_NHWC = images_NHWC.new_zeros(2, *images_NHWC.shape[1:])
            labels = labels.new_zeros(2, *labels.shape[1:])
        # Losses are means over images, and gradients are to be; DDP's are means over processes.
        num_weighed = self._world.size if num_own else 0
        num_parts = _num_parts(len(images_NHWC), self._micro_batch_size)
        logits, losses = [], []
        for i, (images, of_part) in enumerate(
            zip(images_NHWC.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)
        ):
            with _averaging(model, is_last=i == num_parts - 1):
                weight = num_weighed * len(images) / num_images
                part_logits, loss = self._compute_part(model, images, of_part, weight)
            logits.append(part_logits)
            losses.append(loss)
        with self._phase("metrics"), torch.no_grad():
            self._scaler.unscale_(self._optimizer)
            # At once, for the next step: what it takes from unscale_ is there in this call only,
            # and in a CUDA graph there are no calls.
            self._scaler.update()
            gradients = [p.grad for p in self._trained if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            logits_NC = torch.cat(logits)[:num_own]
            self._add(logits_NC, labels[:num_own], sum(losses), norm, num_images)

    def _compute_part(
        self, model: nn.Module, images_NHWC: torch.Tensor, labels: torch.Tensor, weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and weighted loss of a micro-batch; its gradients are added to others'."""
        with self._phase("forward"):
            inputs_NCHW = normalize.normalize(images_NHWC, self._pixels.mean, self._pixels.std)
            inputs_NCHW = inputs_NCHW.contiguous(memory_format=self._memory_format)
            with self._fast_gradients(), compute.autocast(self._device, self._amp):
                logits_NC = model(inputs_NCHW)
            logits_NC = logits_NC.float()
            loss = self._loss_of(logits_NC, *parted(labels)) * weight
        with self._phase("backward"):
            self._scaler.scale(loss).backward()
        return logits_NC.detach(), loss.detach()

    def _fast_gradients(self) -> AbstractContextManager:
        """Return the context in which depthwise convolutions get fast gradients on a CPU."""
        is_eager = self._fast and self._compiled is self._model
        return FastGradients() if is_eager else contextlib.nullcontext()

    def _add(
        self,
        logits_NC: torch.Tensor,
        labels: torch.Tensor,
        loss: torch.Tensor,
        norm: torch.Tensor,
        num_images: int,
    ) -> None:
        targets_NC, *weights = parted(labels)
        predicted_NC, true_NC = logits_NC > 0, targets_NC > 0.5  # blended ones are in between
        if weights:  # an unknown label is not predicted, and right
            predicted_NC = predicted_NC & (weights[0] > 0)
        of_batch = torch.stack(
            [
                loss.double() * (num_images / self._world.size),
                (predicted_NC & true_NC).sum(),
                (predicted_NC & ~true_NC).sum(),
                (~predicted_NC & true_NC).sum(),
                (predicted_NC == true_NC).all(1).sum(),
                torch.full_like(loss, len(logits_NC), dtype=torch.float64),
            ]
        )
        if self._world.is_shared:
            of_batch = self._of_all(of_batch, len(logits_NC), num_images)
            loss = of_batch[0] / num_images
        is_finite = (loss + norm).isfinite()
        self._left_out.copy_(~is_finite)
        self._number += 1
        sums = self._sums
        sums[:_NUM_PER_EPOCH].add_(torch.where(is_finite, of_batch, 0.0))
        sums[AT.num_skipped].add_(self._left_out)
        streak, bad = sums[AT.streak], sums[AT.bad_step : AT.bad_norm + 1]
        streak.copy_(torch.where(is_finite, 0.0, streak + 1))
        this_one = torch.stack([self._number, loss.double(), norm.double()])
        bad.copy_(torch.where(is_finite | (bad[0] >= 0), bad, this_one))

    def _of_all(self, of_batch: torch.Tensor, num_own: int, num_images: int) -> torch.Tensor:
        """Return the sums over all processes.

        BatchNorm's running statistics, which DDP leaves alone, become their mean over all images.
        """
        values = torch.cat([of_batch, *self._statistics])  # all float64
        values[_NUM_PER_EPOCH:] *= num_own
        self._world.all_reduce(values)
        if self._statistics:
            means = (values[_NUM_PER_EPOCH:] / num_images).float()
            torch._foreach_copy_(self._statistics, means.split([len(s) for s in self._statistics]))
        return values[:_NUM_PER_EPOCH]

    def _update(self) -> None:
        """Make the step, unless it is to be left out."""
        with self._phase("optimizer"):
            # CPU-GPU synchronisation, on a GPU with --no-fast only: PyTorch's own optimizers that
            # are not fused cannot leave a step out themselves.
            if self._decides_itself or not self._left_out.item():
                self._optimizer.step()


def _averaging(model: nn.Module, *, is_last: bool) -> AbstractContextManager:
    """Return the context in which DDP averages gradients, after the last micro-batch only."""
    if is_last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def _num_parts(num_images: int, micro_batch_size: int) -> int:
    """Return how many micro-batches to make; none has a single image, of which BatchNorm has no
    variance.
    """
    return max(1, min(-(-num_images // micro_batch_size), num_images // 2))
