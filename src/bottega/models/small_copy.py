"""Small copies of a model, for proofs: the same class and types of layers with a few thousand weights, and everything
that counts tokens (windows, chunks, budgets, lengths at which positions change) shorter than the rows of the proof.

What a config key means is recognized by its name. A number larger than the rows that no rule knows may be a length too:
it is first taken for one, and if no model can be built so, it is kept and named in `SmallCopy.unknown`.
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

# The largest copy that is built: 0.2 GB in float32.
MAX_WEIGHTS = 50_000_000

# Vocabulary, width of a head, and layers of a copy whose layers are all of one type.
VOCABULARY_SIZE, HEAD_WIDTH, DEFAULT_LAYERS = 96, 16, 2

# Keys that count tokens.
LENGTH_KEY = re.compile(
    r"window(_size|_len)?$|local_attention$|(?<!inference_)chunk_?(size|length)$|block_size$|index_topk|_floor$"
    r"|floor_scale|original_max_position|rel_extent|radius|max_distance|context_length|(?<!max_)seq_len$|_seq_length$"
    r"|mem_len|clamp_len|landmarks|compressed|capacity|global_tokens|budget|_span$|max_relative"
)

# Keys that count blocks of tokens.
BLOCK_COUNT_KEY = re.compile(r"(topk|top_k|local|random|global|selected)_blocks$|num_chunks|chunk_num$")

# Keys that are no length, however large: ids, position tables (rows may not be longer), bases of rotations.
NOT_LENGTH_KEY = re.compile(
    r"vocab|token_id|_id$|_index$|position_embeddings$|n_positions$|n_ctx$|max_seq_len$|max_length$|_theta$|seed"
    r"|inference_|image|patch|audio|_mel_"
)

# Keys of randomness in training; a copy has none.
RANDOM_KEY = re.compile(r"dropout|pdrop|drop_rate|drop_prob|jitter|layerdrop")

# Number of layers, period and offset of alternating types of layers, widths, attention heads; then for mixtures of
# experts: their number, how many a token uses, and groups of them.
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


def small_copies(model_class: type, config: Any, window: int, longest: int) -> Iterator[SmallCopy]:
    """Copies of a model from the smallest on; one that cannot be built is skipped.

    window   even; numbers that count tokens become this
    longest  tokens of the longest row of the proof

    Raises the first error of the model's own code if none can be built.
    """
    errors: list[Exception] = []
    built = False
    for widths, guess in itertools.product((_shrink_all_widths, _shrink_known_widths, _keep_widths), (True, False)):
        small, shrinker = copy.deepcopy(config), _ConfigShrinker(widths, window, longest, guess)
        try:
            for part in nested_configs(small):
                shrinker.shrink(part)
            model = _build(model_class, small)
        except Exception as error:  # widths may depend on each other in ways the rules do not know
            errors.append(error)
        else:
            built = True
            yield SmallCopy(model, tuple(dict.fromkeys(shrinker.unknown)))
    if not built:
        raise errors[0]


class SmallCopy(NamedTuple):
    """A small model in float32 and evaluation mode, and large config keys that may count tokens and were kept."""

    model: Any
    unknown: tuple[str, ...]


def _build(model_class: type, config: Any) -> Any:
    """The model with random weights; a ValueError if it is too large."""
    build = getattr(model_class, "_from_config", model_class)
    # On the meta device first, where weights take no memory: a config that was not understood may be huge.
    with torch.device("meta"):
        size = sum(weight.numel() for weight in build(copy.deepcopy(config)).parameters())
    if size > MAX_WEIGHTS:
        raise ValueError(f"its smallest copy has {size / 1e6:,.0f} million weights")
    return sharpen_weights(build(config, dtype=torch.float32)).eval()


def sharpen_weights(model: nn.Module) -> nn.Module:
    """The model with random weights that hide no difference: attention far from uniform, no vector of zeros or ones."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                # Twice the usual scale: attention is then sharp, and a wrong mask shows.
                nn.init.normal_(weight, std=2 * weight.shape[-1] ** -0.5)
            elif weight.is_floating_point():
                weight.add_(torch.randn_like(weight), alpha=0.3)
        for buffer in _saved_buffers(model):
            buffer.add_(torch.rand_like(buffer), alpha=0.3)
    return model


def _saved_buffers(model: nn.Module) -> Iterator[torch.Tensor]:
    """Learned numbers that are not parameters: biases of routers, scales of layers."""
    # Buffers of more dimensions are tables computed from the config.
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            is_learned = name not in module._non_persistent_buffers_set and buffer.dim() < 2
            if is_learned and buffer.is_floating_point():
                yield buffer


def nested_configs(config: Any) -> list[Any]:
    """The config and those nested in it, at any depth."""
    nested = [value for value in vars(config).values() if hasattr(value, "to_dict") and hasattr(value, "model_type")]
    return [config, *(part for inner in nested for part in nested_configs(inner))]


# (config, key, number) → the number in a narrow copy; None if the key is no width.
WidthRule = Callable[[Any, str, int], int | None]


class _ConfigShrinker:
    """Makes configs small in place.

    widths   rule for widths
    window   numbers that count tokens become this
    longest  numbers up to this cannot hide a length, and are kept
    guess    take unknown larger numbers for lengths; else they are kept and listed in `unknown`
    """

    def __init__(self, widths: WidthRule, window: int, longest: int, guess: bool) -> None:
        self.widths, self.window, self.longest, self.guess = widths, window, longest, guess
        self.unknown: list[str] = []

    def shrink(self, config: Any) -> None:
        """Make one config small, without those nested in it."""
        overrides = _layer_overrides(config)
        if overrides:
            config.per_layer_config = None  # transformers refuses to read values that differ by layer
        kept, changes = _reduce_depth(config, overrides)
        small_overrides = {
            index: {name: self.override(config, name, value) for name, value in overrides[layer].items()}
            for index, layer in enumerate(kept)
            if layer in overrides
        }
        for name, value in (vars(config) | changes).items():
            if not name.startswith("_") and type(changes.get(name)) is not int:
                changes[name] = self.small_value(config, name, value)
        if _has_dynamic_rope(config):  # the rotation changes beyond this length, so rows must reach beyond it
            changes["max_position_embeddings"] = self.window
        for name, value in changes.items():
            with contextlib.suppress(AttributeError):  # some configs derive a value and have no setter
                setattr(config, name, value)
        if overrides:
            config.per_layer_config = small_overrides

    def override(self, config: Any, name: str, value: Any) -> Any:
        """A value that one layer overrides, made small: one larger than the config's stays larger."""
        common, small = config_value(config, name), self.small_value(config, name, value)
        is_larger = type(value) is int and type(common) is int and value > common
        return 2 * small if is_larger and small == self.small_value(config, name, common) else small

    def small_value(self, config: Any, name: str, value: Any) -> Any:
        """A value of a config, made small."""
        # Label names are dictionaries of the user's own words.
        if isinstance(value, dict) and "label" not in name:
            return {key: self.small_value(config, str(key), inner) for key, inner in value.items()}
        if isinstance(value, list) and name.endswith("_factor"):
            return _shrink_rope_factors(config, value, self.widths)
        if isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
            return type(value)([self.small_int(config, name, item) for item in value])
        if isinstance(value, float):
            value = 0.0 if RANDOM_KEY.search(name) else value
            return min(value, float(self.window)) if LENGTH_KEY.search(name) else value
        return self.small_int(config, name, value) if type(value) is int else value  # bool is no int here

    def small_int(self, config: Any, name: str, value: int) -> int:
        """An integer of a config, made small."""
        if BLOCK_COUNT_KEY.search(name):
            return min(value, 1)
        if LENGTH_KEY.search(name):
            # ModernBERT's local_attention is the whole window, half of it on each side.
            return min(value, 2 * self.window if name == "local_attention" else self.window)
        if NOT_LENGTH_KEY.search(name):
            return _shrink_token_key(name, value)
        width = self.widths(config, name, value)
        if width is not None or value <= self.longest or name in DEPTH_KEYS:
            return value if width is None else width
        if self.guess:
            return self.window
        self.unknown.append(name)
        return value


def _shrink_token_key(name: str, value: int) -> int:
    """A vocabulary size or a token id, within the small vocabulary."""
    if "vocab" in name:
        return min(value, VOCABULARY_SIZE)
    return value % VOCABULARY_SIZE if name.endswith(("token_id", "pad_id")) and value >= VOCABULARY_SIZE else value


def _keep_widths(config: Any, name: str, value: int) -> int | None:
    """The rule that changes no width."""
    return (
        value
        if WIDTH_KEY.search(name)
        or any(rule.search(name) for rule in (HEADS_KEY, EXPERTS_KEY, EXPERTS_PER_TOKEN_KEY, EXPERT_GROUPS_KEY))
        else None
    )


def _shrink_known_widths(config: Any, name: str, value: int) -> int | None:
    """The rule for the widths that almost every model has; others stay."""
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
    """The rule for everything that looks like a width."""
    heads = _head_count(config)
    # The first match counts, so special names stand before general ones.
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
    """RoPE scaling factors for the narrow head, which needs one per pair: the last of the list, which differ most."""
    names = ("hidden_size", "num_attention_heads", "head_dim")
    hidden, heads, head = (config_value(config, name) for name in names)
    if not hidden or not heads:
        return value
    values = zip(names, (hidden, heads, head), strict=True)
    small_hidden, small_heads, small_head = (
        number and (widths(config, name, number) or number) for name, number in values
    )
    narrow = small_head or small_hidden // small_heads
    return value[-max(1, len(value) * narrow // (head or hidden // heads)) :]


def _head_count(config: Any) -> int:
    return min(4, config_value(config, "num_attention_heads") or 4)


def _rope_fraction(config: Any) -> int:
    """Width of a head as a multiple of its rotated part, if the config has a width for that part."""
    head, rotated = config_value(config, "head_dim"), config_value(config, "qk_rope_head_dim")
    return head // rotated if isinstance(head, int) and isinstance(rotated, int) and 0 < rotated <= head else 1


def _has_grouped_keys(config: Any) -> bool:
    """Whether it has grouped-query attention: several query heads per key/value head."""
    return config_value(config, "num_key_value_heads") not in (None, config_value(config, "num_attention_heads"))


def config_value(config: Any, name: str) -> Any:
    """The value of a key; None if it is missing, or differs by layer."""
    # transformers raises RuntimeError for a value that differs by layer.
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return None


def _has_dynamic_rope(config: Any) -> bool:
    """Whether RoPE changes with the length of a row (dynamic NTK)."""
    return "'dynamic'" in str(config_value(config, "rope_parameters"))


def _layer_overrides(config: Any) -> dict[int, dict[str, Any]]:
    """By layer, the values in which it differs from the config."""
    if not getattr(config, "is_heterogeneous", False):
        return {}
    return {int(layer): values for layer, values in config.to_dict()["per_layer_config"].items()}


def _reduce_depth(config: Any, overrides: dict[int, dict[str, Any]]) -> tuple[list[int], dict[str, Any]]:
    """(indices of the layers that stay, two of each type, changes that make the config one of these)."""
    depth = next(
        (depth for depth in (config_value(config, name) for name in DEPTH_KEYS) if isinstance(depth, int)), None
    )
    if depth is None:
        return [], {}
    lists, members = _per_layer_lists(config, depth)
    kept = _representative_layers(lists | {"": [overrides.get(layer) for layer in range(depth)]}, members, depth)
    changes: dict[str, Any] = {name: type(values)([values[layer] for layer in kept]) for name, values in lists.items()}
    for name, layers in members.items():
        changes[name] = type(layers)([index for index, layer in enumerate(kept) if layer in layers])
    for name, value in vars(config).items():
        if type(value) is not int or name in changes:
            continue
        if PERIOD_KEY.search(name) and value > 1:
            changes[name] = 2
        elif OFFSET_KEY.search(name):
            changes[name] = min(value, 1)
        elif name == "num_kv_shared_layers":
            changes[name] = min(value, len(kept) // 2)
    # Where types alternate by a period instead of a list, it has become 2.
    for name in DEPTH_KEYS:
        if type(vars(config).get(name)) is int:
            changes[name] = min(vars(config)[name], len(kept))
    return kept, changes


def _per_layer_lists(config: Any, depth: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(keys with a list of one value per layer, keys with a list of layer indices)."""
    lists: dict[str, Any] = {}
    members: dict[str, Any] = {}
    for name, values in vars(config).items():
        if name.startswith("_") or not isinstance(values, (list, tuple)):
            continue
        are_indices = all(type(item) is int and 0 <= item < depth for item in values) and len(set(values)) == len(
            values
        )
        # With two layers or fewer, [0, 1] may be either.
        if are_indices and re.search(r"layers|_ids$|idxs$", name) and not (len(values) == depth and depth <= 2):
            members[name] = values
        elif len(values) == depth and values:
            lists[name] = values
    return lists, members


def _representative_layers(lists: dict[str, Any], members: dict[str, Any], depth: int) -> list[int]:
    """Indices of the layers that stay: the first of each type, then the second of each."""
    types = [
        (*(str(values[layer]) for values in lists.values()), *(layer in indices for indices in members.values()))
        for layer in range(depth)
    ]
    if len(set(types)) == 1:
        return list(range(min(depth, DEFAULT_LAYERS)))
    nth = [types[:layer].count(types[layer]) for layer in range(depth)]
    return [layer for turn in range(2) for layer in range(depth) if nth[layer] == turn]
