#!/usr/bin/env bash
# onnxruntime-genai 0.18.0 with onnxruntime 1.31.1, torch 2.13.0 (CPU wheel), transformers 5.23.0.
#
# The model builder exports decoders whose attention sees a window (Mistral with sliding_window, Phi-3 mini) without a
# word and with exit code 0. A prompt of up to the window then has the logits of transformers. A longer prompt raises an
# error of GroupQueryAttention: total_sequence_length must equal past_sequence_length + kv_sequence_length. With the extra
# option windowed_kv_cache=false the longer prompt is computed, to other logits. Both appear only in use, and only for
# prompts longer than the window; Phi-3 mini's is 2,047 tokens of its 4,096.
#
# Seen 2026-11-29, window 16:
#   default: 12 tokens differ by 3e-06; 40 tokens: RuntimeError
#   windowed_kv_cache=false: 12 tokens differ by 3e-06; 40 tokens differ by 5.3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 onnx==1.23.2 onnxruntime==1.31.1 onnxruntime-genai==0.18.0 onnx-ir==1.1.0
cat > "$folder/look.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
import torch
from tokenizers import Tokenizer, models
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

folder = Path(sys.argv[1])
torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
config = MistralConfig(
    vocab_size=300, num_key_value_heads=2, max_position_embeddings=128, sliding_window=16, **sizes, **ids
)
network = MistralForCausalLM(config).eval()
for weight in network.parameters():
    if weight.dim() > 1:
        torch.nn.init.normal_(weight, std=0.15)
network.save_pretrained(folder / "model")
words = {f"w{index}": index for index in range(300)}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w1").save_pretrained(folder / "model")


def difference(out, length):
    tokens = np.arange(5, 5 + length, dtype=np.int32)
    model = og.Model(str(out))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=128)
    generator = og.Generator(model, parameters)
    try:
        generator.append_tokens(tokens)
        given = np.array(generator.get_output("logits")[0])
    except RuntimeError as error:
        return str(error)
    with torch.no_grad():
        wanted = network(torch.tensor(tokens[None].astype(np.int64))).logits[0].numpy()
    return float(np.abs(wanted - given).max())


found = {}
for name, options in (("default", []), ("whole cache", ["--extra_options", "windowed_kv_cache=false"])):
    out = folder / name.replace(" ", "-")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder / "model"), "-o", str(out)]
    command += ["-p", "fp32", "-e", "cpu", "-c", str(folder / "cache"), *options]
    subprocess.run(command, check=True, capture_output=True)
    found[name] = difference(out, 12), difference(out, 40)
    print(name, *found[name])
assert all(short < 1e-3 for short, _ in found.values())
assert "total_sequence_length" in found["default"][1]
assert found["whole cache"][1] > 1
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder" 2>/dev/null
echo "as before"
