"""How each family of decoders is written for llama.cpp: its settings, and its weights as llama.cpp computes with them.

Where transformers and llama.cpp arrange or scale a weight differently, the weight is changed so that both compute the
same. What llama.cpp computes in one way only is refused for models that compute it in another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bottega.models.dimensions import attention_window, head_width

Weight = NDArray[np.float32]

# Kinds of rotations that can be written.
ROTATIONS = ("default", "linear", "yarn", "llama3", "longrope")

# llama.cpp looks GELU up in a table of float16 numbers, in every precision.
GELU_ROUNDING = 2e-2


class Family:
    """Models whose weights need no change beyond their names.

    architecture  llama.cpp's name
    rounding      largest difference of a logit in float32
    """

    architecture: ClassVar[str]
    rounding: ClassVar[float] = 1e-3

    def refusal(self, config: Any) -> str:
        """Why llama.cpp would compute something else than this model; empty if it computes the same."""
        kind = rotation(config).get("rope_type", "default")
        if kind not in ROTATIONS or (kind == "longrope" and self.architecture != "phi3"):
            return f"its rotations are of the kind {kind}"
        window, positions = attention_window(config), config.max_position_embeddings
        if window is not None and window < positions:
            return f"its attention sees {window} tokens, and that of llama.cpp all"
        return "" if config.hidden_act in ("silu", "swish") else f"its activation is {config.hidden_act}, not silu"

    def write_settings(self, writer: Any, config: Any) -> None:
        """The hyper-parameters."""
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(head_width(config))
        writer.add_value_length(head_width(config))
        writer.add_vocab_size(config.vocab_size)
        _write_rotation(writer, config)

    def weights(self, saved: Mapping[str, Weight], config: Any) -> Iterator[tuple[str, Weight]]:
        """(transformers' name, weight) of every weight, changed where llama.cpp needs it."""
        yield from saved.items()

    def extra_weights(self, config: Any) -> Iterator[tuple[str, Weight]]:
        """(llama.cpp's name, weight) of tables that transformers computes by itself."""
        if rotation(config).get("rope_type") == "llama3":
            yield "rope_freqs.weight", _llama3_factors(config)


class Llama(Family):
    """Rotations turn neighbouring pairs in llama.cpp, and halves of a head in transformers."""

    architecture: ClassVar[str] = "llama"

    def weights(self, saved: Mapping[str, Weight], config: Any) -> Iterator[tuple[str, Weight]]:
        for name, weight in saved.items():
            for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
                if f".{part}." in name:
                    weight = _interleave(weight, heads)
            yield name, weight


class Mixtral(Llama):
    """Mixtures of experts, each kind of weight of all experts in one tensor."""

    def write_settings(self, writer: Any, config: Any) -> None:
        super().write_settings(writer, config)
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)

    def weights(self, saved: Mapping[str, Weight], config: Any) -> Iterator[tuple[str, Weight]]:
        for name, weight in super().weights(saved, config):
            if name.endswith("experts.gate_up_proj"):  # [E, 2 I, H]
                gate, up = np.split(weight, 2, axis=1)
                yield name.replace("gate_up_proj", "gate_proj.weight"), gate
                yield name.replace("gate_up_proj", "up_proj.weight"), up
            else:
                yield name + (".weight" if name.endswith("experts.down_proj") else ""), weight


class Qwen2(Family):
    architecture: ClassVar[str] = "qwen2"


class Qwen3(Family):
    architecture: ClassVar[str] = "qwen3"


class SmolLm3(Llama):
    """Every fourth layer has no rotation; llama.cpp knows no other pattern."""

    architecture: ClassVar[str] = "smollm3"

    def refusal(self, config: Any) -> str:
        pattern = [int((layer + 1) % 4 != 0) for layer in range(config.num_hidden_layers)]
        if list(config.no_rope_layers) != pattern:
            return "its layers without rotation are others than every fourth"
        return super().refusal(config)


class Phi3(Family):
    """Rotations have one set of factors for short texts, and one for long ones."""

    architecture: ClassVar[str] = "phi3"

    def write_settings(self, writer: Any, config: Any) -> None:
        super().write_settings(writer, config)
        # It cannot be left out; 0 is none.
        writer.add_sliding_window(0)

    def extra_weights(self, config: Any) -> Iterator[tuple[str, Weight]]:
        rope = rotation(config)
        if rope.get("rope_type") == "longrope":
            yield "rope_factors_long.weight", np.array(rope["long_factor"], np.float32)
            yield "rope_factors_short.weight", np.array(rope["short_factor"], np.float32)


class Gemma3(Family):
    """Norms multiply by one plus their weight; five of six layers see a window, with rotations of their own."""

    architecture: ClassVar[str] = "gemma3"
    rounding: ClassVar[float] = GELU_ROUNDING

    def refusal(self, config: Any) -> str:
        pattern = [
            "full_attention" if (layer + 1) % 6 == 0 else "sliding_attention"
            for layer in range(config.num_hidden_layers)
        ]
        if list(config.layer_types) != pattern:
            return "its layers that see the whole text are others than every sixth"
        local = rotation(config, "sliding_attention")
        if local.get("rope_type", "default") != "default" or local.get("rope_theta") != 10_000.0:
            return "the rotations of its layers with a window are others than llama.cpp's"
        if rotation(config).get("rope_type", "default") not in ("default", "linear"):
            return f"its rotations are of the kind {rotation(config)['rope_type']}"
        usual = config.hidden_activation == "gelu_pytorch_tanh"
        return "" if usual else f"its activation is {config.hidden_activation}, not gelu_pytorch_tanh"

    def write_settings(self, writer: Any, config: Any) -> None:
        super().write_settings(writer, config)
        writer.add_sliding_window(config.sliding_window)
        if config.final_logit_softcapping:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)

    def weights(self, saved: Mapping[str, Weight], config: Any) -> Iterator[tuple[str, Weight]]:
        # llama.cpp divides scores by the root of the head's width, whatever the config says.
        scale = np.float32(math.sqrt(head_width(config) / config.query_pre_attn_scalar))
        for name, weight in saved.items():
            weight = weight + 1 if name.endswith("norm.weight") else weight
            yield name, weight * scale if name.endswith("q_norm.weight") else weight


class Gpt2(Family):
    """Linear layers with transposed weights, and a table of positions."""

    architecture: ClassVar[str] = "gpt2"
    rounding: ClassVar[float] = GELU_ROUNDING

    def refusal(self, config: Any) -> str:
        usual = config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        return "" if usual else f"its activation is {config.activation_function}, not gelu_new"

    def write_settings(self, writer: Any, config: Any) -> None:
        writer.add_context_length(config.n_positions)
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        writer.add_vocab_size(config.vocab_size)

    def weights(self, saved: Mapping[str, Weight], config: Any) -> Iterator[tuple[str, Weight]]:
        for name, weight in saved.items():
            transposed = name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
            yield name, weight.T if transposed else weight

    def extra_weights(self, config: Any) -> Iterator[tuple[str, Weight]]:
        return iter(())


# Model type of transformers → how it is written.
FAMILIES: dict[str, type[Family]] = {
    "llama": Llama,
    "mistral": Llama,
    "mixtral": Mixtral,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "smollm3": SmolLm3,
    "phi3": Phi3,
    "gemma3_text": Gemma3,
    "gpt2": Gpt2,
}


def rotation(config: Any, layers: str = "full_attention") -> Mapping[str, Any]:
    """The parameters of the rotations of a kind of layers."""
    rope = getattr(config, "rope_parameters", None) or {}
    found: Mapping[str, Any] = rope.get(layers, rope)
    return found


def _interleave(weight: Weight, heads: int) -> Weight:
    """[heads · width, …] the two halves of each head's rows taken in turns."""
    width = weight.shape[0] // heads
    halves = weight.reshape(heads, 2, width // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _write_rotation(writer: Any, config: Any) -> None:
    from gguf import RopeScalingType

    rope = rotation(config)
    writer.add_rope_dimension_count(int(head_width(config) * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
    if kind == "longrope":
        original = int(rope.get("original_max_position_embeddings") or config.original_max_position_embeddings)
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(original)
        factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        writer.add_rope_scaling_attn_factors(rope.get("attention_factor") or factor)


def _llama3_factors(config: Any) -> Weight:
    """[width / 2] what each frequency is divided by (Llama 3.1)."""
    rope, width = rotation(config), head_width(config)
    frequencies = rope["rope_theta"] ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    wavelengths = 2 * math.pi / frequencies
    original, low, high = (
        rope["original_max_position_embeddings"],
        rope["low_freq_factor"],
        rope["high_freq_factor"],
    )
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    kept = (1 - smooth) / rope["factor"] + smooth
    return np.asarray(1 / kept, np.float32)
