#!/usr/bin/env bash
# llama-cpp-python 0.3.36 (its llama.cpp, built here), gguf 0.19.0.
#
# The free text general.name of a GGUF file decides how it is tokenised. If it contains "phi-3" or "phi3", in any case,
# llama.cpp makes the special tokens swallow the white space after them, and looks up the tokens </s>, <unk>, <s> and
# <|endoftext|>: a file with that name and a vocabulary without them does not load, with "unordered_map::at" as the only
# reason. The same file under another name loads. So a Phi-3 that was tuned and renamed splits chats otherwise than
# before, and a model of another family whose name mentions phi-3 may not load at all.
#
# Seen 2026-11-29:
#   assistant loads
#   my Phi-3 assistant: error loading model vocabulary: unordered_map::at
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-build-core cmake ninja numpy requests
"$folder/venv/bin/pip" install --quiet gguf==0.19.0
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/pip" install --quiet --no-build-isolation llama-cpp-python==0.3.36
cat > "$folder/look.py" <<'PYTHON'
import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFWriter, TokenType

messages = []
listen = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
    lambda level, text, data: messages.append(text.decode())
)
llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
tokens = ["<end>", *letters]
found = {}
for name in ("assistant", "my Phi-3 assistant"):
    path = Path(sys.argv[1], name.replace(" ", "-") + ".gguf")
    writer = GGUFWriter(path, "gpt2")
    writer.add_name(name)
    writer.add_context_length(32)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * len(letters))
    writer.add_token_merges([])
    writer.add_eos_token_id(0)
    shapes = {"token_embd.weight": (len(tokens), 32), "position_embd.weight": (32, 32)}
    shapes |= {"output_norm.weight": (32,), "output_norm.bias": (32,)}
    block = {"attn_norm.weight": (32,), "attn_norm.bias": (32,), "attn_qkv.weight": (96, 32), "attn_qkv.bias": (96,)}
    block |= {"attn_output.weight": (32, 32), "attn_output.bias": (32,), "ffn_norm.weight": (32,)}
    block |= {"ffn_norm.bias": (32,), "ffn_up.weight": (64, 32), "ffn_up.bias": (64,)}
    block |= {"ffn_down.weight": (32, 64), "ffn_down.bias": (32,)}
    shapes |= {f"blk.0.{key}": shape for key, shape in block.items()}
    for key, shape in shapes.items():
        writer.add_tensor(key, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    messages.clear()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    reasons = [text.strip() for text in messages if "error loading model" in text]
    found[name] = bool(model), reasons
    print(name, *found[name])
assert found["assistant"] == (True, [])
loaded, reasons = found["my Phi-3 assistant"]
assert not loaded
assert "unordered_map::at" in reasons[0]
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder"
echo "as before"
