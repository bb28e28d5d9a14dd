"""A base on which several LoRA adapters are trained at once, each by a run of its own.

The weights of the base are in memory once. A forward computes tokens of several runs, each with its adapter, and one
backward gives every adapter its gradient; what a run computes by itself, such as a validation, uses its adapter alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bottega.adapters import Adapter, InstallOptions
from bottega.errors import ModelError
from bottega.models.activated import Activated, check_can_activate
from bottega.models.arithmetic.native import NATIVE
from bottega.models.arithmetic.plain import PLAIN
from bottega.models.config import has_dropout
from bottega.models.one_of_several import NOT_PLAIN, OneOfSeveral
from bottega.models.row_adapters import RowAdapters
from bottega.models.scorer import Scorer


class SharedBase:
    """A base on which several runs train an adapter each; the first of them loads it.

    count   of the runs, each of which has its part of the memory that micro-batches may take
    scorer  of the base without adapter, once it is loaded
    rows    the adapters on its network
    """

    scorer: Scorer
    rows: RowAdapters

    def __init__(self, count: int) -> None:
        self.count, self.is_loaded = count, False

    def load(self, make: Callable[[], tuple[Scorer, list[str]]]) -> tuple[Scorer, list[str]]:
        """(the scorer of the base, names of its modules with random weights); `make` loads it the first time."""
        if self.is_loaded:
            return self.scorer, []
        self.scorer, new = make()
        self.rows, self.is_loaded = RowAdapters(self.scorer.network), True
        return self.scorer, new

    def select(self, name: str) -> None:
        """Let what is computed next use this adapter, if there is a base yet."""
        if self.is_loaded:
            self.rows.use_everywhere(name)

    def adapt(self, name: str, adapter: Adapter, invocation: Sequence[int] = ()) -> Scorer:
        """A scorer of the network with a new adapter, whose weights are those that it would have alone.

        invocation  the token ids of `adapter.invocation_text`

        Raises a ModelError if it is not LoRA of linear layers, and nothing else.
        """
        if not adapter.is_plain_low_rank:
            raise ModelError(NOT_PLAIN, where=f"adapters.{name}", fix="train this one by itself")
        network, head = self.scorer.network, self.scorer.head
        if not head.autoregressive or network.config.is_encoder_decoder:
            raise ModelError("adapters are trained at once on decoders", where="adapters", fix="train each by itself")
        if invocation:
            check_can_activate(self.scorer)
        if has_dropout(network):
            what = "with dropout, a row's masks would depend on the rows of the other adapters"
            raise ModelError(what, where="adapters", fix="set model.dropout to 0, or train each by itself")
        installed = adapter.install(network, InstallOptions(peft_task=head.peft_task, invocation=invocation))
        try:
            own = (Activated if invocation else OneOfSeveral)(self.rows, name, installed)
        finally:
            installed.model.unload()
        self.rows.put(name, own.matrices, NATIVE if self.scorer.fit.native else PLAIN)
        scorer = Scorer(network, head, self.scorer.fit)
        scorer.model, scorer.adapted = own.model, own
        # The run goes on at once, and may have a trained adapter to restore.
        self.select(name)
        return scorer
