"""Classification with transformers' Trainer, padded: `classify_run.py classify FOLDER --updates N --examples N`.

The folder holds the encoder as `model` and `rows.csv` with text and label. Weights are float32, computed under bfloat16
autocast unless `--full`; `--packing` here means rows of like length together, which leaves the least padding.
"""

from __future__ import annotations

import torch
from common import Clock, arguments, report, settings
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    options = arguments("classify")
    rows = load_dataset("csv", data_files=f"{options.folder}/rows.csv", split="train")
    names = sorted(set(rows["label"]))
    tokenizer = AutoTokenizer.from_pretrained(f"{options.folder}/model")
    model = AutoModelForSequenceClassification.from_pretrained(
        f"{options.folder}/model", num_labels=len(names), dtype=torch.float32
    )
    encoded = rows.map(
        lambda row: {**tokenizer(row["text"], truncation=True), "labels": names.index(row["label"])},
        remove_columns=rows.column_names,
    )
    chosen = {key: value for key, value in settings(options).items() if key not in ("max_length", "packing")}
    chosen |= {"bf16": not options.full, "gradient_checkpointing": False}
    if options.packing:
        chosen["train_sampling_strategy"] = "group_by_length"
    clock = Clock()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**chosen),
        train_dataset=encoded,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[clock],
    )
    trainer.train()
    report(clock.seconds)


if __name__ == "__main__":
    main()
