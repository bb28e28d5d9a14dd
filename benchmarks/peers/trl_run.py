"""One TRL run on a prepared workload, in the peers' environment: `trl_run.py sft|dpo|… FOLDER --updates N …`.

With `--packing`, the examples of an update are blocks of 1,024 tokens instead of rows.
"""

from __future__ import annotations

import torch
from common import Clock, load_reward, parse_arguments, report, trainer_settings
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

TRAINERS = {
    "sft": (SFTTrainer, SFTConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "reward": (RewardTrainer, RewardConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
}

# GRPO: answers per prompt, and maximum tokens per answer.
GROUP, TOKENS = 8, 64


def main() -> None:
    options = parse_arguments(*TRAINERS)
    tokenizer = AutoTokenizer.from_pretrained(f"{options.folder}/model")
    if options.kind == "reward":
        model_options = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
        auto_class = AutoModelForSequenceClassification
    else:
        model_options, auto_class = {}, AutoModelForCausalLM
    model = auto_class.from_pretrained(f"{options.folder}/model", dtype=getattr(torch, options.dtype), **model_options)
    rows = load_dataset("json", data_files=f"{options.folder}/rows.jsonl", split="train")
    lora = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS" if model_options else "CAUSAL_LM"
    )
    trainer_class, config_class = TRAINERS[options.kind]
    clock, settings, trainer_options = Clock(), trainer_settings(options), {}
    if options.kind == "grpo":
        settings |= {"num_generations": GROUP, "max_completion_length": TOKENS}
        settings["per_device_train_batch_size"] *= GROUP
        del settings["max_length"]
        trainer_options["reward_funcs"] = load_reward(f"{options.folder}/reward.py")
    trainer = trainer_class(
        model=model,
        args=config_class(**settings),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=None if options.full else lora,
        callbacks=[clock],
        **trainer_options,
    )
    if options.kind == "sft":
        clock.count(trainer)
    trainer.train()
    report(clock.seconds, tokens=clock.tokens)


if __name__ == "__main__":
    main()
