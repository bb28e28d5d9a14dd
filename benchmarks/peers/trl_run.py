"""One TRL run on a prepared workload; prints one JSON line with seconds a step and peak memory.

Run by `versus_trl.py` in the peers' environment:
`trl_run.py sft|dpo FOLDER --steps N --examples N [--no-checkpointing]`.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["sft", "dpo"])
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--no-checkpointing", action="store_true")
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(f"{options.folder}/model", dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(f"{options.folder}/model")
    rows = load_dataset("json", data_files=f"{options.folder}/{options.work}.jsonl", split="train")
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": options.examples,
        "max_steps": options.steps,
        "learning_rate": 1e-4,
        "max_length": 1024,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1000,
        "use_cpu": True,
        "bf16": True,
        **({"gradient_checkpointing": False} if options.no_checkpointing else {}),
    }
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    kinds = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig)}
    trainer_class, config_class = kinds[options.work]
    clock = Clock()
    trainer = trainer_class(
        model=model,
        args=config_class(**settings),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[clock],
    )
    trainer.train()
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": clock.seconds, "memory": memory}))


if __name__ == "__main__":
    main()
