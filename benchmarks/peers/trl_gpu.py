"""TRL with Liger's kernels on a GPU: `trl_gpu.py sft|dpo|grpo FOLDER --updates N --warm N --examples N --batch N`.

The model is made on the device with random weights from FOLDER/model/config.json; rows are FOLDER/rows.jsonl. A batch
has `--batch` rows, halved until it fits. Prints one JSON line: number of rows in the measured updates, their seconds,
peak bytes, rows per batch, and whether Liger could be used.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from common import load_reward
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

TRAINERS = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig), "grpo": (GRPOTrainer, GRPOConfig)}


class Clock(TrainerCallback):
    """Seconds and peak memory from the end of update `warm` to the end of the run."""

    def __init__(self, warm: int) -> None:
        self.warm = warm

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.warm:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.started = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.started
        self.memory = torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=TRAINERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--group", type=int, default=8, help="GRPO: answers per prompt")
    parser.add_argument("--tokens", type=int, default=128, help="GRPO: tokens per answer")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    batch, liger = options.batch, True
    while batch:
        try:
            clock = train(options, batch, liger)
            break
        except torch.OutOfMemoryError:
            batch //= 2
        except (ValueError, NotImplementedError) as error:
            if not liger:
                raise
            print(f"without Liger: {error}", file=sys.stderr)
            liger = False
        gc.collect()
        torch.cuda.empty_cache()
    else:
        sys.exit("a single row does not fit")
    rows = (options.updates - options.warm) * options.examples
    print(json.dumps({"rows": rows, "seconds": clock.seconds, "memory": clock.memory, "batch": batch, "liger": liger}))


def train(options: argparse.Namespace, batch: int, liger: bool) -> Clock:
    """Train for some updates; returns the clock."""
    folder = options.folder
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = AutoConfig.from_pretrained(folder / "model")
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    trainer_class, config_class = TRAINERS[options.kind]
    clock = Clock(options.warm)
    settings: dict[str, Any] = {"max_length": 2048}
    trainer_options: dict[str, Any] = {}
    if options.kind == "grpo":
        # TRL counts the batch in answers, not in prompts.
        settings = {"num_generations": options.group, "max_completion_length": options.tokens}
        settings["per_device_train_batch_size"] = batch * options.group
        trainer_options["reward_funcs"] = load_reward(str(folder / "reward.py"))
    trainer = trainer_class(
        model=model,
        args=config_class(
            output_dir=tempfile.mkdtemp(),
            gradient_accumulation_steps=options.examples // batch,
            max_steps=options.updates,
            learning_rate=1e-5,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=1000,
            bf16=True,
            gradient_checkpointing=False,
            use_liger_kernel=liger,
            **({"per_device_train_batch_size": batch} | settings),
        ),
        train_dataset=load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train"),
        processing_class=tokenizer,
        peft_config=None
        if options.full
        else LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
        **trainer_options,
    )
    trainer.train()
    return clock


if __name__ == "__main__":
    main()
