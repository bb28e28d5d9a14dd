"""A model made ready to score: packing proved, kernels fused, its adapter installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bottega import adapters
from bottega.adapters import Adapter, InstallOptions, WeightReader
from bottega.errors import ModelError
from bottega.hardware.device import compute_dtype, resolve_device
from bottega.models.activated import Activated, check_can_activate
from bottega.models.adapted import attach_saved
from bottega.models.arithmetic.native import NATIVE
from bottega.models.arithmetic.plain import PLAIN
from bottega.models.attention import ATTENTION_NAME, add_layout_hooks, register_attention
from bottega.models.checkpoint import load_adapted
from bottega.models.config import is_encoder
from bottega.models.encoder_decoder import prepare_encoder_decoder
from bottega.models.kernels import apply_kernels
from bottega.models.low_rank import saved_invocation
from bottega.models.native import SWITCH, mark, operators
from bottega.models.native.packed_linear import pack_model, packed_fraction
from bottega.models.packing_proof import prove_packing
from bottega.models.row_adapters import RowAdapters
from bottega.models.scorer import Fit, Scorer
from bottega.models.source import adapter_folder
from bottega.objectives import HeadKind
from bottega.recipe.schema import Quantize

if TYPE_CHECKING:
    from bottega.adapters import AdaptedModel

# The dtype by which weights in 8 bits are asked for.
EIGHT_BITS = "int8"

# A model of which fewer weights can be kept in 8 bits is refused: GPT-2's layers, and experts, are no linear layers.
MIN_FRACTION = 0.5


def fit_model(
    model: Any,
    head: HeadKind,
    fit: Fit | None = None,
    extra: Sequence[str] = (),
    *,
    native: bool = False,
    weight_bits: int | None = None,
) -> Scorer:
    """The model ready to score batches, packed if the proof on a small copy shows that to be exact.

    fit           how it was computed in an earlier start of the run, which goes before `native`
    extra         heads beside `head`
    native        it may be computed in C++
    weight_bits   its weights will not change: they may be kept in the order in which C++ reads them, in 16 or 8 bits

    Raises a ModelError if it was computed in C++ and cannot be now: other sums would be rounded otherwise.
    """
    if fit is None:
        proved = prove_packing(type(model), model.config, head, is_encoder(model.config))
        fit = replace(proved, native=native and model.device.type == "cpu" and operators() is not None)
    elif fit.native and operators() is None:
        raise ModelError(
            "this run was computed by the operators in C++, which are missing: without them it would go on otherwise",
            where="hardware",
            fix=f"bottega build-native; if they are built, unset {SWITCH} in the environment",
        )
    if fit.packed:
        if model.config.is_encoder_decoder:
            prepare_encoder_decoder(model)
        register_attention()
        add_layout_hooks(model)
        model.set_attn_implementation(ATTENTION_NAME)
    if fit.native:
        mark(model)
    # Not an encoder–decoder: T5 asks for the dtype of a weight in every layer, which would be made whole for it.
    if weight_bits and fit.native and fit.packed and not model.config.is_encoder_decoder:
        pack_model(model, weight_bits)
    if weight_bits == 8 and packed_fraction(model) < MIN_FRACTION:
        what = f"no weights in 8 bits of {model.config.model_type} on {model.device.type}"
        fix = "8 bits are for linear layers on a CPU, by operators in C++: bottega build-native; or take another dtype"
        raise ModelError(what, where=f"dtype {EIGHT_BITS}", fix=fix)
    apply_kernels(model, fit.fused, native=fit.native)
    return Scorer(model, head, fit, extra)


def add_adapter(
    scorer: Scorer,
    adapter: Adapter,
    *,
    new: Sequence[str],
    reference: bool,
    unquantized: WeightReader | None = None,
    invocation: Sequence[int] = (),
) -> None:
    """Freeze the scorer's model and put a trainable adapter on it, a new one or the one the recipe continues.

    new          modules whose weights are random: they are trained and saved with the adapter
    reference    `AdaptedModel.disabled` will give the policy as it is now
    unquantized  reads the weights of the base as they were before they were quantized
    invocation   the token ids of `adapter.invocation_text`
    """
    if adapter.start is None:
        # A head that may have begun at random is trained whole: a low-rank change of random weights learns little.
        head = scorer.head
        whole = [name for name in adapter.modules_trained_whole(scorer.network) if name not in new]
        options = InstallOptions(new, head.may_be_new, head.peft_task, reference, unquantized, whole, invocation)
        adapted = adapter.install(scorer.network, options)
    else:
        folder = adapter_folder(adapter.start)
        kind = adapters.saved_kind(folder)
        # A section without a kind has the default one, and goes on with an adapter of any kind.
        if adapter.kind not in (adapters.DEFAULT, kind):
            what = f"the adapter that is continued is of the kind {kind}, not {adapter.kind}"
            raise ModelError(
                what, where=str(folder), fix="leave adapter.kind out, or train a new adapter: leave from out"
            )
        # The copy of one that begins at its invocation is made below.
        copied = reference and not saved_invocation(folder)
        adapted = attach_saved(scorer.network, folder, trainable=True, reference=copied)
    apply_kernels(adapted.model, names=(), native=scorer.fit.native)
    _use(scorer, adapted)
    if reference and isinstance(scorer.adapted, Activated) and adapter.start is not None:
        scorer.adapted.keep_reference(adapter_folder(adapter.start))


def load_scorer(
    name: str,
    dtype: str,
    device: str,
    head: HeadKind = "language",
    labels: Sequence[str] = (),
    tokenizer: Any = None,
    *,
    native: bool = False,
    quantize: Quantize | None = None,
) -> Scorer:
    """The model of a run, a folder or a hub id, as it was trained, ready to score on `device` (or `auto`).

    dtype   of weights and computation; `int8`: weights in 8 bits, computed as with `auto`
    native  it may be computed in C++: not while something is trained, as a resumed run must compute what it did
    quantize  how its weights are kept; None: as by the run that trained it
    """
    resolved = resolve_device(device)
    computed = compute_dtype("auto" if dtype == EIGHT_BITS else dtype, resolved)
    network, adapted = load_adapted(name, computed, head, labels, tokenizer, quantize)
    module = (network if adapted is None else adapted.model).to(resolved).eval()
    bits = 8 if dtype == EIGHT_BITS else 16
    scorer = fit_model(module if adapted is None else adapted.network, head, native=native, weight_bits=bits)
    if adapted is not None:
        _use(scorer, adapted)
    return scorer


def _use(scorer: Scorer, adapted: AdaptedModel) -> None:
    """Score with the adapted model; an adapted head over the vocabulary must be computed by the model's own forward."""
    if adapted.needs_packing and not scorer.fit.packed:
        what = f"an adapter of this kind is computed in packed rows only, and this model has none: {scorer.fit.reason}"
        raise ModelError(what, where="adapter.kind", fix="take another kind: lora, ia3, vera, prompt")
    if adapted.invocation and not isinstance(adapted, Activated):
        # PEFT looks for the invocation around the model, and here the model is called without it.
        adapted = activate(scorer, adapted)
    scorer.model, scorer.adapted = adapted.model, adapted
    if scorer.head.over_vocabulary and adapted.changes_head:
        scorer.fit = _computed_by_own_head(scorer.fit, scorer.network)


def activate(scorer: Scorer, installed: AdaptedModel) -> Activated:
    """An adapter that begins at its invocation, computed token by token instead of by PEFT."""
    check_can_activate(scorer)
    rows = RowAdapters(scorer.network)
    try:
        activated = Activated(rows, "adapter", installed)
    finally:
        installed.model.unload()
    rows.put("adapter", activated.matrices, NATIVE if scorer.fit.native else PLAIN)
    return activated


def _computed_by_own_head(fit: Fit, network: Any) -> Fit:
    if not network.config.is_encoder_decoder:
        return replace(fit, own_head=True, reason="the adapter changes the head")
    # An encoder–decoder then computes a row at a time, with the attention that transformers would choose.
    network.set_attn_implementation("sdpa" if network._supports_sdpa else "eager")
    return replace(fit, own_head=True, packed=False, reason="the adapter changes the head")
