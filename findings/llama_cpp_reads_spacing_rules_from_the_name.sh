#!/usr/bin/env bash
# llama.cpp as in llama-cpp-python 0.3.36, files by gguf 0.19.0.
#
# The free-text name of a model, general.name, is more than a label: where it contains "phi-3" or "phi3", llama.cpp sets
# white-space rules of Phi-3's special tokens, and looks four tokens of Phi-3's vocabulary up. A file that is equal but
# for its name, with a vocabulary of its own, then does not load: the error is "unordered_map::at". A name such as
# "support-phi3-v2", after the folder or the base of a fine-tuned model, is enough.
#
# Seen 2026-11-29:
#   support-v2: loaded
#   support-phi3-v2: not loaded, error loading model: error loading model vocabulary: unordered_map::at
#
# Builds llama.cpp, which takes six minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.3.5 gguf==0.19.0 diskcache scikit-build-core cmake ninja
PATH="$folder/venv/bin:$PATH" CMAKE_ARGS="-DLLAVA_BUILD=OFF" \
    "$folder/venv/bin/pip" install --quiet --no-build-isolation llama-cpp-python==0.3.36
cat > "$folder/look.py" <<'PYTHON'
import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFWriter, TokenType

WIDTH, HEADS, INNER = 64, 4, 96
folder, messages = Path(sys.argv[1]), []


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def listen(level, text, data):
    messages.append(text.decode(errors="replace").strip())


def byte_characters():
    """The character that stands for each byte in a byte-level vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(byte if byte in shown else next(extra)) for byte in range(256)]


def write(name):
    path = folder / f"{name}.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = [*byte_characters(), "<end>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * 256 + [TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)
    weights = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (257, WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
        **{f"blk.0.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (INNER, WIDTH),
        "blk.0.ffn_up.weight": (INNER, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, INNER),
    }
    for tensor, shape in shapes.items():
        writer.add_tensor(tensor, weights.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
found = {}
for name in ("support-v2", "support-phi3-v2"):
    messages.clear()
    settings = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(str(write(name)).encode(), settings)
    reasons = [text.partition("error loading model: ")[2] for text in messages if "error loading model: " in text]
    found[name] = "loaded" if model else f"not loaded, {reasons[0]}"
    print(f"{name}: {found[name]}")
assert found["support-v2"] == "loaded", found
assert "unordered_map::at" in found["support-phi3-v2"], found
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder"
