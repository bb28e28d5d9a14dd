"""One TRL run on a prepared workload, in the peers' environment: `trl_run.py sft|dpo FOLDER --updates N …`.

With packing an update holds blocks of 1,024 tokens instead of rows.
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
    if options.work == "sft":
        clock.count(trainer)
    trainer.train()
    report(clock.seconds, tokens=clock.tokens)


if __name__ == "__main__":
    main()
