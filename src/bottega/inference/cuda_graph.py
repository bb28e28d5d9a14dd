"""A computation that is launched at once where the device can: its kernels recorded, and played again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from weakref import WeakSet

import torch
from torch import Tensor, nn

# Models of which nothing could be recorded: it is not tried again.
UNABLE: WeakSet[nn.Module] = WeakSet()


class Recorded:
    """Calls of `run`, a step of `model` whose inputs stay where they are in memory; on a CPU just calls.

    A token a row is so little work that an accelerator would wait for its host to launch it. What is played is held
    against what was computed by itself: where the two differ, or nothing can be recorded, there is a warning, and every
    call is one.

    played  how often what was recorded did the work
    """

    def __init__(self, run: Callable[[], Tensor], model: nn.Module, *, device: torch.device) -> None:
        self.run, self.model, self.played = run, model, 0
        self.able = device.type == "cuda"
        self._known: Hashable = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out: Tensor | None = None

    def __call__(self, shapes: Hashable) -> Tensor:
        """The output of `run`; `shapes` stands for all that its memory and its kernels depend on."""
        if not self.able or self.model in UNABLE:
            return self.run()
        if self._graph is None or shapes != self._known:
            return self._record(shapes)
        self._graph.replay()
        self.played += 1
        assert self._out is not None
        return self._out

    def _record(self, shapes: Hashable) -> Tensor:
        """Compute once by itself, record, play, compare."""
        self._graph = self._out = None
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            wanted = self.run().clone()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                out = self.run()
            graph.replay()
        except RuntimeError as error:
            return self._refuse(str(error).splitlines()[0], wanted)
        if not torch.allclose(out, wanted, rtol=0.0, atol=0.0, equal_nan=True):
            return self._refuse("what was recorded computes something else", wanted)
        self._graph, self._out, self._known = graph, out, shapes
        return out

    def _refuse(self, why: str, out: Tensor) -> Tensor:
        UNABLE.add(self.model)
        warnings.warn(f"each step is launched by itself, which is slower: {why}", RuntimeWarning, stacklevel=2)
        return out
