"""A small copy of a model: its own class and kinds of layers, a few thousand weights, and everything it counts in
tokens (windows, chunks, budgets, lengths at which positions change) below the length of the rows it is tried on.

A key of a config is told by its name. A number larger than the rows that no rule here knows may be a length, too: it is
taken for one, and named in `Copy.unknown` where the model cannot be built so.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

MAX_WEIGHTS = 50_000_000
"""Weights of a copy that is still built: 0.2 GB."""

VOCABULARY_SIZE, HEAD_WIDTH, DEFAULT_LAYERS = 96, 16, 2
"""Tokens, width of a head, and layers of a copy whose config lists none."""

LENGTH_KEY = re.compile(
    r"window(_size|_len)?$|local_attention$|(?<!inference_)chunk_?(size|length)$|block_size$|index_topk|_floor$"
    r"|floor_scale|original_max_position|rel_extent|radius|max_distance|context_length|(?<!max_)seq_len$|_seq_length$"
    r"|mem_len|clamp_len|landmarks|compressed|capacity|global_tokens|budget|_span$|max_relative"
)
"""Keys that count tokens."""

BLOCK_COUNT_KEY = re.compile(r"(topk|top_k|local|random|global|selected)_blocks$|num_chunks|chunk_num$")
"""Keys that count blocks of tokens."""

NOT_LENGTH_KEY = re.compile(
    r"vocab|token_id|_id$|_index$|position_embeddings$|n_positions$|n_ctx$|max_seq_len$|max_length$|_theta$|seed"
    r"|inference_|image|patch|audio|_mel_"
)
"""Keys that do not, whatever their number: ids, tables of positions (rows may be no longer), bases of rotations."""

RANDOM_KEY = re.compile(r"dropout|pdrop|drop_rate|drop_prob|jitter|layerdrop")
"""Keys of what is drawn in training."""

DEPTH_KEYS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
         "num_decoder_layers", "num_encoder_layers", "num_blocks")  # fmt: skip
PERIOD_KEY = re.compile(
    r"(layer|sparse)_(period|interval|step|frequency|freq)$|every_n_layers|window_pattern$|group_size$"
)
OFFSET_KEY = re.compile(r"layer_offset$|first_k_dense_replace|num_dense_layers|layer_start_index")
WIDTH_KEY = re.compile(
    r"(_size|_dim|_rank|_width|d_model|d_ff|dff|n_embd|n_inner|_channels|emb_dim|d_inner|d_kv|_dim_base)$|^dim"
    r"|multiple_of$|_scalar$"
)
HEADS_KEY = re.compile(r"heads(_per_layer)?$|^n_head$|num_query_groups|_n_groups$|n_groups$|ngroups$")
EXPERTS_KEY = re.compile(r"experts$|expert_num$")
EXPERTS_PER_TOKEN_KEY = re.compile(r"experts_per_tok(en)?$|moe_(k|topk|top_k)$|(num|n)_experts_per_|top_k_experts$")
EXPERT_GROUPS_KEY = re.compile(r"^n_group$|topk_group$|num_expert_group$")


def small_copies(model_class: type, config: Any, near: int, longest: int) -> Iterator[SmallCopy]:
    """Copies of a model that are smaller and smaller guesses; what cannot be built is passed over, and told at the end.

    near     what counts tokens becomes this number, an even one
    longest  tokens of the longest row they will be tried on

    Raises what the model's own code raised, if none can be built.
    """
    errors: list[Exception] = []
    built = False
    for widths, guess in itertools.product((_shrink_all_widths, _shrink_known_widths, _keep_widths), (True, False)):
        changed, how = copy.deepcopy(config), _ConfigShrinker(widths, near, longest, guess)
        try:
            for part in nested_configs(changed):
                how.shrink(part)
            model = _build(model_class, changed)
        except Exception as error:  # widths may hang together in ways not known here
            errors.append(error)
        else:
            built = True
            yield SmallCopy(model, tuple(dict.fromkeys(how.left)))
    if not built:
        raise errors[0]


class SmallCopy(NamedTuple):
    """A small model in float32, evaluation mode, and the keys of its config that may count tokens and are large."""

    model: Any
    unknown: tuple[str, ...]


def _build(model_class: type, config: Any) -> Any:
    build = getattr(model_class, "_from_config", model_class)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in build(copy.deepcopy(config)).parameters())
    if size > MAX_WEIGHTS:
        raise ValueError(f"its smallest copy has {size / 1e6:,.0f} million weights")
    return sharpen_weights(build(config, dtype=torch.float32)).eval()


def sharpen_weights(model: nn.Module) -> nn.Module:
    """The model with random weights that hide nothing: attention far from uniform, no vector of zeros or ones."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                # Twice the usual scale, so that a wrong mask shows.
                nn.init.normal_(weight, std=2 * weight.shape[-1] ** -0.5)
            elif weight.is_floating_point():
                weight.add_(torch.randn_like(weight), alpha=0.3)
        for buffer in _saved_buffers(model):
            buffer.add_(torch.rand_like(buffer), alpha=0.3)
    return model


def _saved_buffers(model: nn.Module) -> Iterator[torch.Tensor]:
    """Numbers beside the weights that a checkpoint brings: the biases of routers, and scales of layers.

    What has more dimensions is computed from the config, and not learned.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            known = name not in module._non_persistent_buffers_set and buffer.dim() < 2
            if known and buffer.is_floating_point():
                yield buffer


def nested_configs(config: Any) -> list[Any]:
    """The config and those nested in it."""
    nested = [value for value in vars(config).values() if hasattr(value, "to_dict") and hasattr(value, "model_type")]
    return [config, *(part for one in nested for part in nested_configs(one))]


WidthRule = Callable[[Any, str, int], int | None]
"""(config, key, number) → the number in a narrow copy; None where the key is no width."""


class _ConfigShrinker:
    """How a config and those nested in it are made small, and the keys that may count tokens and were left."""

    def __init__(self, widths: WidthRule, near: int, longest: int, guess: bool) -> None:
        self.widths, self.near, self.longest, self.guess = widths, near, longest, guess
        self.left: list[str] = []

    def shrink(self, config: Any) -> None:
        """Make one config small where it stands."""
        overrides = _layer_overrides(config)
        if overrides:
            config.per_layer_config = None  # else what differs by layer cannot be read
        kept, changes = _reduce_depth(config, overrides)
        layers = {
            place: {name: self.override(config, name, value) for name, value in overrides[layer].items()}
            for place, layer in enumerate(kept)
            if layer in overrides
        }
        for name, value in (vars(config) | changes).items():
            if not name.startswith("_") and type(changes.get(name)) is not int:
                changes[name] = self.changed(config, name, value)
        if _has_dynamic_rope(config):  # its rotation changes where rows are longer than this
            changes["max_position_embeddings"] = self.near
        for name, value in changes.items():
            with contextlib.suppress(AttributeError):  # some configs derive a value and let nobody set it
                setattr(config, name, value)
        if overrides:
            config.per_layer_config = layers

    def override(self, config: Any, name: str, value: Any) -> Any:
        """What a layer has instead, made small: a larger width stays a larger one."""
        own, less = config_value(config, name), self.changed(config, name, value)
        larger = type(value) is int and type(own) is int and value > own
        return 2 * less if larger and less == self.changed(config, name, own) else less

    def changed(self, config: Any, name: str, value: Any) -> Any:
        """A value of a config, made small."""
        if isinstance(value, dict) and "label" not in name:
            return {key: self.changed(config, str(key), one) for key, one in value.items()}
        if isinstance(value, list) and name.endswith("_factor"):
            return _shrink_rope_factors(config, value, self.widths)
        if isinstance(value, (list, tuple)) and all(type(one) is int for one in value):
            return type(value)([self.number(config, name, one) for one in value])
        if isinstance(value, float):
            value = 0.0 if RANDOM_KEY.search(name) else value
            return min(value, float(self.near)) if LENGTH_KEY.search(name) else value
        return self.number(config, name, value) if type(value) is int else value

    def number(self, config: Any, name: str, value: int) -> int:
        """A whole number of a config, made small."""
        if BLOCK_COUNT_KEY.search(name):
            return min(value, 1)
        if LENGTH_KEY.search(name):
            # Local attention of an even width looks half of it each way.
            return min(value, 2 * self.near if name == "local_attention" else self.near)
        if NOT_LENGTH_KEY.search(name):
            return _shrink_token_key(name, value)
        width = self.widths(config, name, value)
        if width is not None or value <= self.longest or name in DEPTH_KEYS:
            return value if width is None else width
        if self.guess:
            return self.near
        self.left.append(name)
        return value


def _shrink_token_key(name: str, value: int) -> int:
    """A number of tokens in a vocabulary, or of one of them, of a smaller one."""
    if "vocab" in name:
        return min(value, VOCABULARY_SIZE)
    return value % VOCABULARY_SIZE if name.endswith(("token_id", "pad_id")) and value >= VOCABULARY_SIZE else value


def _keep_widths(config: Any, name: str, value: int) -> int | None:
    """No width is changed."""
    return (
        value
        if WIDTH_KEY.search(name)
        or any(rule.search(name) for rule in (HEADS_KEY, EXPERTS_KEY, EXPERTS_PER_TOKEN_KEY, EXPERT_GROUPS_KEY))
        else None
    )


def _shrink_known_widths(config: Any, name: str, value: int) -> int | None:
    """The widths that almost every model has; the others stay."""
    heads = _head_count(config)
    known = {
        "hidden_size": HEAD_WIDTH * heads,
        "intermediate_size": 3 * HEAD_WIDTH,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2) if _has_grouped_keys(config) else heads,
        "head_dim": HEAD_WIDTH,
        "num_local_experts": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 2 * HEAD_WIDTH,
    }
    return min(value, known[name]) if name in known else _keep_widths(config, name, value)


def _shrink_all_widths(config: Any, name: str, value: int) -> int | None:
    """Whatever reads like a width."""
    heads = _head_count(config)
    for rule, most in (
        (r"qk_head_dim$", 2 * HEAD_WIDTH),
        (r"(mamba_)?expand$|_expand$", 2),
        (r"^mamba_(n|num)_heads$|^num_heads$" if "expand" in str(vars(config)) else r"(?!)", 2 * heads),
        (
            r"key_value_heads|kv_heads|kv_n_heads|num_key_heads",
            max(1, heads // 2) if _has_grouped_keys(config) else heads,
        ),
        (HEADS_KEY.pattern, heads),
        (EXPERTS_KEY.pattern, 4),
        (EXPERTS_PER_TOKEN_KEY.pattern, 2),
        (r"^n_group$|num_expert_group$", 2),
        (r"topk_group$", 1),
        (r"^head_dim$", HEAD_WIDTH * _rope_fraction(config)),
        (r"head_dim$|headdim$|d_head$|d_kv$|kv_channels$|head_size$|rotary_dim$|^dim_head$", HEAD_WIDTH),
        (r"state_size$|d_state$|_rank$|d_rel$", HEAD_WIDTH),
        (r"intermediate|ffn|d_ff|dff|n_inner|d_inner|feed_forward|^hidden_dim$|dim_ff$|d_ssm", 3 * HEAD_WIDTH),
        (r"query_pre_attn_scalar", HEAD_WIDTH),
        (r"kernel|type_vocab", value),
        (WIDTH_KEY.pattern, HEAD_WIDTH * heads),
    ):
        if re.search(rule, name):
            return min(value, most)
    return None


def _shrink_rope_factors(config: Any, value: list[Any], widths: WidthRule) -> list[Any]:
    """Factors of rotations, as many as half a head has places; of a longer list the last, which differ most."""
    names = ("hidden_size", "num_attention_heads", "head_dim")
    hidden, heads, head = (config_value(config, name) for name in names)
    if not hidden or not heads:
        return value
    after = [one and (widths(config, name, one) or one) for name, one in zip(names, (hidden, heads, head), strict=True)]
    narrow = after[2] or after[0] // after[1]
    return value[-max(1, len(value) * narrow // (head or hidden // heads)) :]


def _head_count(config: Any) -> int:
    return min(4, config_value(config, "num_attention_heads") or 4)


def _rope_fraction(config: Any) -> int:
    """Of how many parts of a head one is rotated, where the config has a width for that part."""
    head, part = config_value(config, "head_dim"), config_value(config, "qk_rope_head_dim")
    return head // part if isinstance(head, int) and isinstance(part, int) and 0 < part <= head else 1


def _has_grouped_keys(config: Any) -> bool:
    """Whether several heads read the keys of one."""
    return config_value(config, "num_key_value_heads") not in (None, config_value(config, "num_attention_heads"))


def config_value(config: Any, name: str) -> Any:
    """What the config says; None where it says nothing, or another thing of each layer."""
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return None


def _has_dynamic_rope(config: Any) -> bool:
    """Whether its rotation is another beyond the last position it was made for (dynamic NTK)."""
    return "'dynamic'" in str(config_value(config, "rope_parameters"))


def _layer_overrides(config: Any) -> dict[int, dict[str, Any]]:
    """What some layers have instead of what the config says of all."""
    if not getattr(config, "is_heterogeneous", False):
        return {}
    return {int(layer): values for layer, values in config.to_dict()["per_layer_config"].items()}


def _reduce_depth(config: Any, overrides: dict[int, dict[str, Any]]) -> tuple[list[int], dict[str, Any]]:
    """(the layers that stay, two of each kind, and what makes the config one of these)."""
    depth = next(
        (depth for depth in (config_value(config, name) for name in DEPTH_KEYS) if isinstance(depth, int)), None
    )
    if depth is None:
        return [], {}
    lists, members = _per_layer_lists(config, depth)
    kept = _representative_layers(lists | {"": [overrides.get(layer) for layer in range(depth)]}, members, depth)
    changes: dict[str, Any] = {name: type(values)([values[one] for one in kept]) for name, values in lists.items()}
    for name, layers in members.items():
        changes[name] = type(layers)([place for place, one in enumerate(kept) if one in layers])
    for name, value in vars(config).items():
        if type(value) is not int or name in changes:
            continue
        if PERIOD_KEY.search(name) and value > 1:
            changes[name] = 2
        elif OFFSET_KEY.search(name):
            changes[name] = min(value, 1)
        elif name == "num_kv_shared_layers":
            changes[name] = min(value, len(kept) // 2)
    # Layers that alternate by a period that is no list need no more than two of it.
    for name in DEPTH_KEYS:
        if type(vars(config).get(name)) is int:
            changes[name] = min(vars(config)[name], len(kept))
    return kept, changes


def _per_layer_lists(config: Any, depth: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(lists with a value for each layer, lists of the numbers of some layers)."""
    lists: dict[str, Any] = {}
    members: dict[str, Any] = {}
    for name, values in vars(config).items():
        if name.startswith("_") or not isinstance(values, (list, tuple)):
            continue
        numbers = all(type(one) is int and 0 <= one < depth for one in values) and len(set(values)) == len(values)
        if numbers and re.search(r"layers|_ids$|idxs$", name) and not (len(values) == depth and depth <= 2):
            members[name] = values
        elif len(values) == depth and values:
            lists[name] = values
    return lists, members


def _representative_layers(lists: dict[str, Any], members: dict[str, Any], depth: int) -> list[int]:
    """Which layers stay: the first of each kind, then the second of each."""
    kinds = [
        (*(str(values[layer]) for values in lists.values()), *(layer in some for some in members.values()))
        for layer in range(depth)
    ]
    if len(set(kinds)) == 1:
        return list(range(min(depth, DEFAULT_LAYERS)))
    nth = [kinds[:layer].count(kinds[layer]) for layer in range(depth)]
    return [layer for turn in range(2) for layer in range(depth) if nth[layer] == turn]
