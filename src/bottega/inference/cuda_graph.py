"""CUDA-graph capture and replay of a decoding step; on other devices the step is simply called."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from weakref import WeakSet

import torch
from torch import Tensor, nn

# Models whose step could not be captured. Weak references: the set must not keep a model in memory.
NOT_CAPTURABLE: WeakSet[nn.Module] = WeakSet()


# A step with one token a row is so little work that without a graph a GPU waits for the CPU to launch each kernel.


class CapturedStep:
    """Calls of `run`, a step of `model` whose inputs keep their memory addresses, replayed as a CUDA graph.

    The first result of a graph is compared with a plain call. If they differ, or the step cannot be captured, there is
    a warning, and every step of the model is a plain call from then on.

    replays  number of steps that were replayed
    """

    def __init__(self, run: Callable[[], Tensor], model: nn.Module, *, device: torch.device) -> None:
        self.run, self.model, self.replays = run, model, 0
        self.enabled = device.type == "cuda"
        self._shapes: Hashable = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None

    def __call__(self, shapes: Hashable) -> Tensor:
        """The output of `run`; if `shapes` differs from the last call's, the step is captured again."""
        if not self.enabled or self.model in NOT_CAPTURABLE:
            return self.run()
        if self._graph is None or shapes != self._shapes:
            return self._capture(shapes)
        self._graph.replay()
        self.replays += 1
        assert self._output is not None
        return self._output

    def _capture(self, shapes: Hashable) -> Tensor:
        """Call `run` plainly, capture it, replay it once, and compare the two results."""
        self._graph = self._output = None
        # torch wants a warm-up on a side stream: lazy initialization within a capture would fail.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            expected = self.run().clone()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                output = self.run()
            graph.replay()
        except RuntimeError as error:
            return self._give_up(str(error).splitlines()[0], expected)
        if not torch.allclose(output, expected, rtol=0.0, atol=0.0, equal_nan=True):
            return self._give_up("the captured step computes something else", expected)
        self._graph, self._output, self._shapes = graph, output, shapes
        return output

    def _give_up(self, reason: str, output: Tensor) -> Tensor:
        NOT_CAPTURABLE.add(self.model)
        warnings.warn(f"generation without CUDA graphs, which is slower: {reason}", RuntimeWarning, stacklevel=2)
        return output
