"""The parts of a network, found by what they are, and called what the field calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from bottega.errors import ModelError
from bottega.models.dimensions import hidden_width, layer_count, vocabulary_size

# Names of modules in the architectures of transformers.
ATTENTION_NAMES = ("self_attn", "attention", "attn", "self_attention", "SelfAttention")
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "DenseReluDense")
FINAL_NORM_NAMES = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm", "norm_f", "embedding_norm")
PROJECTION_NAMES = {
    "query": ("q_proj", "query", "q", "q_lin"),
    "key": ("k_proj", "key", "k", "k_lin"),
    "value": ("v_proj", "value", "v", "v_lin"),
}
ROUTER_NAMES = ("gate", "router")


@dataclass(frozen=True)
class Stack:
    """A stack of layers: a decoder's, an encoder's, or one of the two of an encoder–decoder.

    name        `encoder` or `decoder`
    body        the module that runs the layers
    layers      in order
    final_norm  what follows the last of them; None if nothing does
    """

    name: str
    body: nn.Module
    layers: Sequence[nn.Module]
    final_norm: nn.Module | None


def find_stacks(network: Any) -> list[Stack]:
    """The stacks of a network: one, or the encoder and the decoder; a ModelError if no layers are found."""
    if network.config.is_encoder_decoder:
        parts = [("encoder", network.get_encoder()), ("decoder", network.get_decoder())]
    else:
        parts = [("decoder" if _is_causal(network) else "encoder", network.base_model)]
    return [
        Stack(name, body, find_layers(body, network.config), _child(body, FINAL_NORM_NAMES)) for name, body in parts
    ]


def find_layers(body: nn.Module, config: Any) -> list[nn.Module]:
    """The layers of a stack: the list of modules nearest to the top that has as many as the config says."""
    # In an encoder–decoder the two stacks may differ in depth.
    counts = {layer_count(config), getattr(config, "num_decoder_layers", None), getattr(config, "decoder_layers", None)}
    counts |= {getattr(config, "encoder_layers", None)}
    lists = [(name.count("."), module) for name, module in body.named_modules() if isinstance(module, nn.ModuleList)]
    for _, module in sorted(lists, key=lambda item: item[0]):
        if len(module) in counts:
            return list(module)
    raise ModelError(
        "its layers are not found", where=config.model_type, fix="a model of transformers with a list of layers can be"
    )


def find_attention(layer: nn.Module) -> nn.Module | None:
    """The self-attention of a layer; None for a recurrent or convolutional one."""
    # T5 has it inside the first of a list of layers.
    return _child(layer, ATTENTION_NAMES) or _inner(layer, ATTENTION_NAMES)


def find_mlp(layer: nn.Module) -> nn.Module | None:
    """The MLP of a layer, experts and all."""
    return _child(layer, MLP_NAMES) or _inner(layer, MLP_NAMES)


def find_router(layer: nn.Module) -> nn.Module | None:
    """What chooses the experts of a layer; None for a dense one."""
    mlp = find_mlp(layer)
    has_experts = mlp is not None and any("expert" in name for name, _ in mlp.named_children())
    return _child(mlp, ROUTER_NAMES) if has_experts and mlp is not None else None


def find_projections(layer: nn.Module) -> dict[str, nn.Module]:
    """The projections of a layer's attention to queries, keys and values; empty if they are not apart."""
    attention = find_attention(layer)
    if attention is None:
        return {}
    found = {}
    for kind, names in PROJECTION_NAMES.items():
        module = _child(attention, names) or _inner(attention, names)
        if module is None:
            return {}
        found[kind] = module
    return found


def describe(network: Any) -> dict[str, Any]:
    """What a network is made of, in the field's words and with its sizes."""
    config = network.config
    query_heads = getattr(config, "num_attention_heads", None)
    key_heads = getattr(config, "num_key_value_heads", None) or query_heads
    layer = find_stacks(network)[-1].layers[0]
    return {
        "family": config.model_type,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "layers": layer_count(config),
        "width": hidden_width(config),
        "vocabulary": vocabulary_size(config),
        "query_heads": query_heads,
        "key_heads": key_heads,
        "attention": _attention_kind(layer, query_heads, key_heads),
        "positions": _position_kind(config),
        "mlp": _mlp_kind(config, layer),
        "norm": _norm_kind(network),
        "experts": getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None),
        "kind": "encoder-decoder" if config.is_encoder_decoder else "decoder" if _is_causal(network) else "encoder",
    }


def _attention_kind(layer: nn.Module, query_heads: int | None, key_heads: int | None) -> str:
    if find_attention(layer) is None or query_heads is None:
        return "none"
    if key_heads == query_heads:
        return "multi-head"
    return "multi-query" if key_heads == 1 else "grouped-query"


def _position_kind(config: Any) -> str:
    if getattr(config, "rope_theta", None) or getattr(config, "rope_parameters", None):
        return "RoPE"
    if getattr(config, "relative_attention_num_buckets", None):
        return "relative"
    if getattr(config, "alibi", False):
        return "ALiBi"
    kind = getattr(config, "position_embedding_type", None)
    return "learned" if kind == "absolute" or hasattr(config, "n_positions") else kind or "learned"


def _mlp_kind(config: Any, layer: nn.Module) -> str:
    names = ("hidden_act", "activation_function", "dense_act_fn")
    activation = next((str(getattr(config, name)) for name in names if getattr(config, name, None)), "")
    mlp = find_mlp(layer)
    modules = {name.rpartition(".")[2] for name, _ in mlp.named_modules()} if mlp is not None else set()
    gated = bool(modules & {"gate_proj", "gate_up_proj", "wi_1", "w3"})
    words = {"silu": "SwiGLU", "swish": "SwiGLU"} if gated else {"silu": "SiLU"}
    shown = {"gelu_pytorch_tanh": "GELU", "gelu_new": "GELU", "gelu": "GELU", "relu": "ReLU", **words}
    name = shown.get(activation, activation or "MLP")
    return "GeGLU" if gated and name == "GELU" else name


def _norm_kind(network: nn.Module) -> str:
    return next(
        (type(module).__name__ for _, module in network.named_modules() if "Norm" in type(module).__name__), "none"
    )


def _is_causal(network: Any) -> bool:
    return network.get_output_embeddings() is not None and not type(network).__name__.endswith("ForMaskedLM")


def _child(module: nn.Module | None, names: Sequence[str]) -> nn.Module | None:
    """The direct child with the first of these names that there is."""
    children: dict[str, Any] = {} if module is None else dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _inner(module: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """The first module of these names below the children."""
    return next(_inner_modules(module, names), None)


def _inner_modules(module: nn.Module, names: Sequence[str]) -> Iterator[nn.Module]:
    for name, inner in module.named_modules():
        if name.rpartition(".")[2] in names:
            yield inner
