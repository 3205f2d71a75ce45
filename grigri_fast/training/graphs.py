"""CUDA graphs: work on a GPU that is recorded once and launched as a whole from then on."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch


class Graphs(Protocol):
    """What records work and repeats it; tests have one for a CPU."""

    def on_stream(self) -> AbstractContextManager[None]:
        """Return the context in which work is done and captured."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work, which is not done, and return what does it: on the same tensors.

        What the work allocates is its own and may be overwritten by other captured work, so that
        nothing but tensors from before the capture can be relied on after it.
        """

    def release(self) -> None:
        """Give back the memory of captured work, all of which has been dropped.

        Of two CUDA graphs one cannot be dropped alone: with it PyTorch 2.15 frees the memory in
        which cuBLAS works on their stream (``CUDAGraph::reset``), and the other one goes on there.
        """


class CudaGraphs:
    """CUDA graphs of one device, which share a pool of memory.

    So two of them take as much as the larger one: they never run at the same time, and none reads
    what another has left in the pool.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Use a stream of our own where the default one is current: it cannot be captured."""
        current = torch.cuda.current_stream(self._device)
        if current != torch.cuda.default_stream(self._device):
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work as a CUDA graph; see :class:`Graphs`. The host waits for the device here."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's threads go on allocating and copying meanwhile.
        with torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=torch.cuda.current_stream(self._device),
            capture_error_mode="thread_local",
        ):
            work()
        return graph.replay

    def release(self) -> None:
        """Give the pool back; the host waits for the device here."""
        self._pool = None  # one that no graph uses any more cannot be used again
        torch.cuda.empty_cache()
