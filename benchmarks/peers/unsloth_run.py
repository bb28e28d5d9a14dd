"""One Unsloth run on a prepared workload, on its CPU back end: `unsloth_run.py sft FOLDER --updates N …`."""

from __future__ import annotations

import os

os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
from unsloth import FastLanguageModel  # isort: skip, it must precede the libraries it patches

import torch
from common import Clock, parse_arguments, report, trainer_settings
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer


def main() -> None:
    options = parse_arguments("sft")
    model, tokenizer = FastLanguageModel.from_pretrained(
        f"{options.folder}/model", dtype=getattr(torch, options.dtype), load_in_4bit=False, max_seq_length=1024
    )
    checkpointing = {"use_gradient_checkpointing": False} if options.no_checkpointing else {}
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32, target_modules=names, **checkpointing)
    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**trainer_settings(options)),
        train_dataset=load_dataset("json", data_files=f"{options.folder}/rows.jsonl", split="train"),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    clock.count(trainer)
    trainer.train()
    report(clock.seconds, tokens=clock.tokens)


if __name__ == "__main__":
    main()
