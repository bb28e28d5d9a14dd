#!/usr/bin/env bash
# PEFT 0.21.2 with torch 2.13.0.
#
# `disable_adapter` is a context manager, but what it leaves behind is not what it found: at its end every weight of the
# active adapter requires a gradient. An adapter that was loaded for inference, all of it frozen, can be trained after the
# base was computed once for comparison, and a part of an adapter that was frozen by hand is frozen no longer. Outputs
# are right, and nothing is said. What is computed later with gradients on keeps a graph, frozen weights collect
# gradients, and an optimizer made from what requires a gradient then has all weights.
#
# Seen 2026-12-01:
#   two layers, one frozen: 2 weights require a gradient, 4 after disable_adapter
#   loaded for inference: 0 weights require a gradient, 4 after disable_adapter
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 peft==0.21.2
cat > "$folder/look.py" <<'PYTHON'
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

warnings.simplefilter("ignore")


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def trainable(model):
    return sum(weight.requires_grad for weight in model.parameters())


def before_and_after(model):
    before = trainable(model)
    with model.disable_adapter():
        model(torch.ones(1, 4))
    return before, trainable(model)


new = get_peft_model(base(), LoraConfig(r=2, target_modules=["0", "1"]))
new.save_pretrained(sys.argv[1])
for name, weight in new.named_parameters():
    if ".0." in name:
        weight.requires_grad_(False)
loaded = PeftModel.from_pretrained(base(), sys.argv[1])
found = {"two layers, one frozen": before_and_after(new), "loaded for inference": before_and_after(loaded)}
for what, (before, after) in found.items():
    print(f"{what}: {before} weights require a gradient, {after} after disable_adapter")
assert found == {"two layers, one frozen": (2, 4), "loaded for inference": (0, 4)}, found
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder/adapter"
