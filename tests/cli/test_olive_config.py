"""Run files of Olive become options of `finetune` and exports; what has no effect is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bottega.cli.olive_config import read_run_file
from bottega.errors import RecipeError

OLD = {
    "input_model": {
        "type": "PyTorchModel",
        "config": {"hf_config": {"model_name": "phi", "task": "text-generation"}},
    },
    "data_configs": {
        "rows": {
            "load_dataset_config": {"params": {"data_name": "json", "data_files": ["a.json", "b.json"]}},
            "pre_process_data_config": {"params": {"text_cols": ["phrase", "tone"], "source_max_len": 64}},
        }
    },
    "passes": {
        "qlora": {
            "type": "QLoRA",
            "config": {
                **{"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
                **{"modules_to_save": ["lm_head"], "train_data_config": "rows", "eval_dataset_size": 0.3},
                "training_args": {"max_steps": 9, "weight_decay": 0.01, "ddp_timeout": 1},
            },
        },
        "search": {"type": "OrtTransformersOptimization"},
        "builder": [{"type": "modelbuilder", "precision": "int4"}],
    },
    "engine": {"output_dir": "made", "cache_dir": "cache"},
    "azureml_client": {},
}


def write(folder: Path, document: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def options(words: list[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


def test_an_older_file(tmp_path: Path) -> None:
    found = read_run_file(write(tmp_path, OLD))
    assert options(found.finetune) == {
        **{"--model_name_or_path": "phi", "--method": "qlora", "--output_path": "made"},
        **{"--lora_r": "8", "--lora_alpha": "16", "--lora_dropout": "0.1", "--lora_target_modules": "q_proj,v_proj"},
        **{"--max_steps": "9", "--weight_decay": "0.01", "--eval_split": "0.3", "--max_seq_length": "64"},
        **{"--data_name": "json", "--data_files": "a.json,b.json", "--text_template": "{phrase} {tone}"},
    }
    assert found.exports == [("builder", "genai", "int4")]
    assert (found.output, found.model) == (Path("made"), "phi")
    assert found.ignored == [
        "input_model.hf_config.task",
        "passes.qlora.training_args.ddp_timeout",
        "passes.qlora.modules_to_save",
        "passes.search (OrtTransformersOptimization)",
        "engine.cache_dir",
        "azureml_client",
    ]


def test_a_file_that_only_exports(tmp_path: Path) -> None:
    document = {"input_model": {"model_path": "phi"}, "passes": {"c": {"type": "OnnxConversion"}}, "output_dir": "o"}
    found = read_run_file(write(tmp_path, document))
    assert (found.finetune, found.exports, found.output) == ([], [("c", "onnx", None)], Path("o"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input_model": {"type": "HfModel"}}, "names no model"),
        ({"data_configs": []}, "uses 'rows', which is not in data_configs"),
        ({"data_configs": {"rows": {}}}, "names no data"),
        ({"data_configs": 3}, "expected a list"),
        ({"passes": {"qlora": 3}}, "expected a mapping"),
        ({"passes": {"qlora": []}}, "expected a mapping"),
        ({"passes": ["qlora"]}, "expected a mapping of passes"),
        ({"passes": {"tune": {"type": "OrtTransformersOptimization"}}}, "no pass trains or writes a model"),
        ({"input_model": {"model_path": "phi", "adapter_path": "ft"}}, "trains on a model that has an adapter"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=reason):
        read_run_file(write(tmp_path, OLD | change))


def test_rows_to_validate_on(tmp_path: Path) -> None:
    """They are those of their own data config, and win over a size."""
    held_out = {"load_dataset_config": {"data_files": "held.json", "split": "train[:9]", "streaming": False}}
    train = {"data_files": "rows.json"}
    lora = {"type": "LoRA", "train_data_config": {"load_dataset_config": train}, "eval_data_config": "held"}
    document = {
        "input_model": {"model_path": "phi"},
        "data_configs": [{"name": "held", **held_out}, {"name": "spare", **held_out}],
        "passes": {"lora": lora},
        "output_dir": "o",
    }
    found = read_run_file(write(tmp_path, document))
    assert found.finetune[-1] == 'data.validation=[{"path": "held.json", "split": "train[:9]"}]'
    assert options(found.finetune[:-1])["--data_files"] == "rows.json"
    assert found.ignored == ["data_configs.held.load_dataset_config.streaming", "data_configs.spare"]
    for size, reason in ((0.2, None), (100, "eval_dataset_size is 100 rows")):
        lora |= {"eval_data_config": None, "eval_dataset_size": size}
        if reason is None:
            assert options(read_run_file(write(tmp_path, document)).finetune)["--eval_split"] == "0.2"
        else:
            with pytest.raises(RecipeError, match=reason):
                read_run_file(write(tmp_path, document))


def test_files_that_are_no_run_files(tmp_path: Path) -> None:
    for text in ("- 1", "a: [", "\x00"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(RecipeError):
            read_run_file(tmp_path / "bad.yaml")
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        read_run_file(tmp_path / "none.yaml")
