"""Time that TRL takes to prepare a packed dataset from a file of rows: `prepare_run.py FOLDER`."""

from __future__ import annotations

import sys
import time

from common import report


def main() -> None:
    folder = sys.argv[1]
    started = time.perf_counter()
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(f"{folder}/model")
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/model")
    ready = time.perf_counter()
    rows = load_dataset("json", data_files=f"{folder}/rows.jsonl", split="train", cache_dir=f"{folder}/cache-{ready}")
    arguments = SFTConfig(f"{folder}/out", max_length=1024, packing=True, report_to=[], use_cpu=True, bf16=False)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    assert len(trainer.train_dataset)
    report([time.perf_counter() - ready], imports=ready - started)


if __name__ == "__main__":
    main()
