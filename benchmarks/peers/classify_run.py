"""Classification with transformers' Trainer, with padding: `classify_run.py classify FOLDER --updates N --examples N`.

The folder holds the encoder as `model` and `rows.csv` with text and label. Weights are float32, computed under bfloat16
autocast unless `--full`. Here `--packing` groups rows of similar length into batches, which need the least padding.
"""

from __future__ import annotations

import torch
from common import Clock, parse_arguments, report, trainer_settings
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    options = parse_arguments("classify")
    rows = load_dataset("csv", data_files=f"{options.folder}/rows.csv", split="train")
    labels = sorted(set(rows["label"]))
    tokenizer = AutoTokenizer.from_pretrained(f"{options.folder}/model")
    model = AutoModelForSequenceClassification.from_pretrained(
        f"{options.folder}/model", num_labels=len(labels), dtype=torch.float32
    )
    encoded = rows.map(
        lambda row: {**tokenizer(row["text"], truncation=True), "labels": labels.index(row["label"])},
        remove_columns=rows.column_names,
    )
    training_arguments = {
        key: value for key, value in trainer_settings(options).items() if key not in ("max_length", "packing")
    }
    training_arguments |= {"bf16": not options.full, "gradient_checkpointing": False}
    if options.packing:
        training_arguments["train_sampling_strategy"] = "group_by_length"
    clock = Clock()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**training_arguments),
        train_dataset=encoded,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[clock],
    )
    trainer.train()
    report(clock.seconds)


if __name__ == "__main__":
    main()
