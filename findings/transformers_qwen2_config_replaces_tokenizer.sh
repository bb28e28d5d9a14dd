#!/usr/bin/env bash
# transformers 5.23.0 (5.24.0 does the same), tokenizers as it asks for.
#
# A folder's tokenizer.json is not what AutoTokenizer reads where config.json beside it says model_type qwen2: Qwen2's
# own pre-tokenizer and decoder are put in place of the file's, whatever class tokenizer_config.json declares, the
# generic TokenizersBackend included, which beside a Llama is heeded. No warning is given. A tokenizer of one's own,
# saved with a small Qwen2 trained from nothing, so comes back as another: one of whole words makes no tokens at all,
# and a byte-pair tokenizer that parts words at white space alone makes others. PreTrainedTokenizerFast reads the file.
#
# Seen 2026-11-28:
#   llama AutoTokenizer TokenizersBackend [2, 3]
#   qwen2 AutoTokenizer Qwen2Tokenizer []
#   qwen2 PreTrainedTokenizerFast [2, 3]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0
cat > "$folder/look.py" <<'PYTHON'
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

TEXT = "the cat's"
backend = Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1, "the": 2, "cat's": 3}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
found = {}
for config in (LlamaConfig(), Qwen2Config()):
    folder = Path(sys.argv[1]) / config.model_type
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    assert '"tokenizer_class": "TokenizersBackend"' in (folder / "tokenizer_config.json").read_text()
    config.save_pretrained(folder)
    guessed = AutoTokenizer.from_pretrained(folder)
    found[config.model_type] = type(guessed).__name__, guessed(TEXT)["input_ids"]
    plain = PreTrainedTokenizerFast.from_pretrained(folder)(TEXT)["input_ids"]
    print(config.model_type, *found[config.model_type], "PreTrainedTokenizerFast", plain)
    assert plain == [2, 3]
assert found == {"llama": ("TokenizersBackend", [2, 3]), "qwen2": ("Qwen2Tokenizer", [])}, found
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder"
echo "as before"
