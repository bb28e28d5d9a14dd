"""One TRL run on a prepared workload, in the peers' environment: `trl_run.py sft|dpo|… FOLDER --updates N …`.

With packing an update holds blocks of 1,024 tokens instead of rows.
"""

from __future__ import annotations

import torch
from common import Clock, arguments, report, rewarded, settings
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

# Answers to a prompt under GRPO, and most tokens of each.
GROUP, TOKENS = 8, 64


def main() -> None:
    options = arguments(*TRAINERS)
    tokenizer = AutoTokenizer.from_pretrained(f"{options.folder}/model")
    if options.work == "reward":
        more = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
        auto = AutoModelForSequenceClassification
    else:
        more, auto = {}, AutoModelForCausalLM
    model = auto.from_pretrained(f"{options.folder}/model", dtype=torch.bfloat16, **more)
    rows = load_dataset("json", data_files=f"{options.folder}/rows.jsonl", split="train")
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS" if more else "CAUSAL_LM")
    trainer_class, config_class = TRAINERS[options.work]
    clock, chosen, given = Clock(), settings(options), {}
    if options.work == "grpo":
        chosen |= {"num_generations": GROUP, "max_completion_length": TOKENS}
        chosen["per_device_train_batch_size"] *= GROUP
        del chosen["max_length"]
        given["reward_funcs"] = rewarded(f"{options.folder}/reward.py")
    trainer = trainer_class(
        model=model,
        args=config_class(**chosen),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=None if options.full else lora,
        callbacks=[clock],
        **given,
    )
    if options.work == "sft":
        clock.count(trainer)
    trainer.train()
    report(clock.seconds, tokens=clock.tokens)


if __name__ == "__main__":
    main()
