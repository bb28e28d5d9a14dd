"""TRL with Liger's kernels on a GPU: `trl_gpu.py sft|dpo|grpo FOLDER --updates N --warm N --examples N --batch N`.

The model is drawn on the device by FOLDER/model/config.json, and rows are FOLDER/rows.jsonl. A batch
is `--batch` rows, halved until they fit. Prints one line of JSON: how many rows the measured
updates held, their seconds, the peak bytes, the rows of a batch, and whether Liger could be used.
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
from common import rewarded
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

TRAINERS = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig), "grpo": (GRPOTrainer, GRPOConfig)}


class Clock(TrainerCallback):
    """Seconds from the end of update `warm` to the end of the last, and the peak of memory since."""

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
    parser.add_argument("work", choices=TRAINERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True)
    parser.add_argument("--examples", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--group", type=int, default=8, help="answers to a prompt, of GRPO")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    batch, liger = options.batch, True
    while batch:
        try:
            clock = trained(options, batch, liger)
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


def trained(options: argparse.Namespace, batch: int, liger: bool) -> Clock:
    """One run of some updates."""
    folder = options.folder
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = AutoConfig.from_pretrained(folder / "model")
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    trainer_class, config_class = TRAINERS[options.work]
    clock = Clock(options.warm)
    chosen: dict[str, Any] = {"max_length": 2048}
    given: dict[str, Any] = {}
    if options.work == "grpo":
        # A batch is of answers, and an update has so many micro-batches of them.
        chosen = {"num_generations": options.group, "max_completion_length": options.tokens}
        chosen["per_device_train_batch_size"] = batch * options.group
        given["reward_funcs"] = rewarded(str(folder / "reward.py"))
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
            **({"per_device_train_batch_size": batch} | chosen),
        ),
        train_dataset=load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train"),
        processing_class=tokenizer,
        peft_config=None
        if options.full
        else LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
        **given,
    )
    trainer.train()
    return clock


if __name__ == "__main__":
    main()
