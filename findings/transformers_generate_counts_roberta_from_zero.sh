#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: RoBERTa, CamemBERT, XLM-RoBERTa, data2vec-text, X-MOD as decoders (`is_decoder: true`).
#
# Their forward numbers positions from behind the padding token (the first token has position padding_idx + 1), and was
# trained so. `generate` hands them positions of its own, which begin at 0, so that it writes by other scores than the
# forward has for the same tokens, from the first token on.
#
# Seen 2026-11-28: the scores of the first token differ by 0.013 of their size; with positions from 0 by 1e-7.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0
cat > "$folder/look.py" <<'PYTHON'
import torch
import transformers

torch.manual_seed(0)
shape = dict(vocab_size=96, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
tokens = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2, max_position_embeddings=64)
config = transformers.RobertaConfig(**shape, **tokens, is_decoder=True)
model = transformers.RobertaForCausalLM(config).eval()
for weight in model.parameters():
    torch.nn.init.normal_(weight, std=0.3)
ids = torch.randint(5, 96, (1, 12))
with torch.no_grad():
    own = model(input_ids=ids, use_cache=False).logits[0, -1]
    zero = model(input_ids=ids, position_ids=torch.arange(12)[None], use_cache=False).logits[0, -1]
settings = dict(do_sample=False, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
written = model.generate(input_ids=ids, **settings).logits[0][0]
size = own.abs().max()
print(f"transformers {transformers.__version__}")
print(f"generate and forward differ by {(written - own).abs().max() / size:.1e}")
print(f"generate and forward with positions from 0 by {(written - zero).abs().max() / size:.1e}")
assert (written - own).abs().max() > 0.001 * size, "generate now goes by the positions of the forward"
assert (written - zero).abs().max() < 1e-4 * size, "generate gives other positions than from 0"
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
