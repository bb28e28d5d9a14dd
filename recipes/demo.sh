#!/bin/sh
# The first minute with bottega; `make demo` runs it.
set -eu
bottega=${1:-bottega}
rm -rf runs/demo
"$bottega" doctor
"$bottega" tokenizer train README.md CONTRIBUTING.md docs/batch.md docs/recipe.md --vocab 512 --out runs/demo/tokenizer
"$bottega" preview recipes/demo.yaml --rows 1
"$bottega" train recipes/demo.yaml --out runs/demo/pretrained
"$bottega" runs runs/demo
