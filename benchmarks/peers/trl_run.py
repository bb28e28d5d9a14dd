"""One TRL run on a prepared workload, in the peers' environment: `trl_run.py sft|dpo FOLDER --updates N …`.

With packing an update holds blocks of 1,024 tokens instead of rows; the real tokens it trained on are reported.
"""

from __future__ import annotations

import torch
from common import Clock, arguments, report, settings
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


def main() -> None:
    options = arguments("sft", "dpo")
    model = AutoModelForCausalLM.from_pretrained(f"{options.folder}/model", dtype=torch.bfloat16)
    rows = load_dataset("json", data_files=f"{options.folder}/rows.jsonl", split="train")
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer_class, config_class = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig)}[options.work]
    clock = Clock()
    trainer = trainer_class(
        model=model,
        args=config_class(**settings(options)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(f"{options.folder}/model"),
        peft_config=None if options.full else lora,
        callbacks=[clock],
    )
    tokens = 0
    if options.packing:
        # Each update takes `examples` blocks, in an order of the trainer's own; all are of much the same size.
        sizes = [len(ids) for ids in trainer.train_dataset["input_ids"]]
        tokens = round(sum(sizes) / len(sizes) * options.examples * options.updates)
    trainer.train()
    report(clock.seconds, **({"tokens": tokens} if tokens else {}))


if __name__ == "__main__":
    main()
