"""The commands of a course that was written for Olive work with another name of the program."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.exporting._source import open_trained
from making import make_model

pytest.importorskip("onnxruntime_genai")

RUNNER = CliRunner()
PROMPT = "### Text: the cat"
ROWS = [{"phrase": f"the {word} {number}", "tone": tone} for number in range(8) for word, tone in (("cat", "a"),)]
TEMPLATE = r"### Text: {phrase}\n### The tone is:\n{tone}"


def call(*words: str) -> str:
    """The output of a command that succeeds."""
    result = RUNNER.invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, rows as courses have them, and a run of `finetune` in ft."""
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "base", head_dim=16)
    # One object per line, in a file called .json.
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    call(
        *("finetune", "--method", "lora", "--model_name_or_path", "base", "--trust_remote_code"),
        *("--data_name", "json", "--data_files", "rows.json", "--text_template", TEMPLATE),
        *("--max_steps", "3", "--output_path", "ft", "--log_level", "error", "--target_modules", "q_proj,v_proj"),
    )
    return tmp_path


def test_finetune_and_auto_opt(course: Path) -> None:
    output = call(
        *("auto-opt", "--model_name_or_path", "ft/model", "--adapter_path", "ft/adapter", "--device", "cpu"),
        *("--provider", "CPUExecutionProvider", "--use_ort_genai", "--output_path", "onnx", "--log_level", "1"),
        *("--memory", "4", "--use_dynamo_exporter", "true"),
    )
    assert "note: --memory has no effect" in output
    assert "note: --use-dynamo-exporter has no effect" in output
    import onnxruntime_genai

    # As the course's own program does it.
    model = onnxruntime_genai.Model("onnx/model")
    adapters, tokens = onnxruntime_genai.Adapters(model), onnxruntime_genai.Tokenizer(model).encode(PROMPT)
    adapters.load("onnx/model/adapter_weights.onnx_adapter", "classifier")
    found = {}
    for name in ("", "classifier"):
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=32)
        generator = onnxruntime_genai.Generator(model, parameters)
        if name:
            generator.set_active_adapter(adapters, name)
        generator.append_tokens(tokens)
        found[name] = np.array(generator.get_output("logits"))[0, -1]
    trained = open_trained("ft")
    module, network = trained.reference()
    ids = trained.tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = network(input_ids=ids).logits[0, -1].numpy()
    assert list(ids[0]) == list(tokens)
    np.testing.assert_allclose(found["classifier"], wanted, rtol=0, atol=1e-3)
    assert np.abs(found[""] - wanted).max() > 1e-2, "the base answers otherwise"
    del module


def test_what_a_run_would_take_for_its_result_is_refused(course: Path) -> None:
    result = RUNNER.invoke(app, ["auto-opt", "-m", "base", "--output_path", "ft"])
    assert result.exit_code == 2
    assert "a run would take the export for its own result" in result.output
    # Other commands do not take the base for the run.
    assert RUNNER.invoke(app, ["generate", "ft/model", "the cat"]).exit_code == 2


def test_generate_adapter_and_convert_adapters(course: Path) -> None:
    output = call("generate-adapter", "--base_model_path", "base", "--adapter_paths", "ft", "--output_path", "gen")
    assert "adapter: gen/model/adapters/ft" in output
    output = call("convert-adapters", "-a", "ft/adapter", "-o", "alone", "--dtype", "float32")
    assert output == "alone.onnx_adapter: rank 16\n"
    written = course / "gen" / "model" / "adapters" / "ft" / "adapter.onnx_adapter"
    assert (course / "alone.onnx_adapter").read_bytes() == written.read_bytes()
    for words, reason in (
        (("-o", "half", "--dtype", "float16"), "no adapter in float16"),
        (("-o", "zip", "--adapter_format", "npz"), "no adapter format 'npz'"),
        (("-o", "alone"), "already exists"),
    ):
        result = RUNNER.invoke(app, ["convert-adapters", "-a", "ft", *words])
        assert result.exit_code == 2
        assert reason in result.output


def test_a_run_file(course: Path) -> None:
    (course / "run.yaml").write_text(
        """
input_model: {type: HfModel, model_path: base}
systems: {local: {type: LocalSystem}}
data_configs:
  - name: rows
    type: HuggingfaceContainer
    load_dataset_config: {data_name: json, data_files: rows.json, split: train}
    pre_process_data_config: {text_template: "{phrase}: {tone}", corpus_strategy: join}
passes:
  lora: {type: LoRA, r: 2, alpha: 4, train_data_config: rows, training_args: {max_steps: 2, learning_rate: 0.001}}
  merge: {type: MergeAdapterWeights}
engine: {output_dir: made}
""",
        encoding="utf-8",
    )
    assert "everything that it needs is installed" in call("run", "--config", "run.yaml", "--setup")
    assert not (course / "made").exists()
    output = call("run", "--config", "run.yaml")
    assert "note: systems has no effect" in output
    assert "note: data_configs.rows.pre_process_data_config.corpus_strategy has no effect" in output
    assert "made/exports/merge" in output
    assert json.loads((course / "made" / "adapter" / "adapter_config.json").read_text())["r"] == 2
    for words in ([], ["base", "--setup"], ["base", "--config", "run.yaml"]):
        assert RUNNER.invoke(app, ["run", *words]).exit_code == 2


def test_another_device_is_refused(course: Path) -> None:
    words = ["auto-opt", "-m", "base", "--device", "npu", "--provider", "QNNExecutionProvider"]
    assert "not for QNNExecutionProvider on npu" in RUNNER.invoke(app, words).output
