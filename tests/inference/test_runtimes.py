"""Each runtime gives the logits of a row, whole and token by token, and says what the export says of itself.

transformers, onnx, genai and llama_cpp each run what an export format writes; `RuntimeNetwork` puts one in the
place of a model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bottega.errors import ModelError
from bottega.exporting._source import open_trained
from bottega.inference import runtimes
from bottega.inference.runtimes._network import RuntimeNetwork
from bottega.inference.runtimes.transformers import TransformersRuntime, compute_logits
from bottega.models.config import load_stored_config
from bottega.models.generation_config import load_generation_config
from making import make_model, make_tokenizer, sharpen, tiny_config

TOKENS = np.arange(5, 12)


def test_logits_of_tokens_of_a_class_and_of_a_decoder(llama: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(llama).eval()
    ids = torch.arange(5, 12)[None]
    np.testing.assert_array_equal(compute_logits(network, TOKENS), network(ids).logits[0].detach().numpy())
    states = network.model(ids).last_hidden_state[0].detach().numpy()
    np.testing.assert_array_equal(compute_logits(network.model, TOKENS), states)
    torch.manual_seed(0)
    config = tiny_config("llama", num_labels=3)
    folder = make_tokenizer(tmp_path / "classes")
    classifier = sharpen(AutoModelForSequenceClassification.from_config(config)).eval()
    classifier.save_pretrained(str(folder))
    assert compute_logits(classifier, TOKENS).shape == (1, 3)
    decoder = open_trained(str(make_model(tmp_path / "t5", "t5"))).reference()[1]
    wanted = decoder(input_ids=torch.arange(30, 50)[None], decoder_input_ids=ids).logits[0].detach().numpy()
    np.testing.assert_allclose(compute_logits(decoder, TOKENS, np.arange(30, 50)), wanted, rtol=0, atol=1e-5)


def test_what_a_folder_says_of_itself(llama: Path) -> None:
    runtime = TransformersRuntime(llama, "language")
    assert runtime.ends == {1}
    assert runtime.tied is False
    text = "the cat </s> sat"
    assert runtime.encode(text) == runtime.tokenizer(text, add_special_tokens=False).input_ids
    assert runtime.template == runtime.tokenizer.chat_template


def test_a_program_without_a_cache_computes_the_row_again(llama: Path) -> None:
    runtime = TransformersRuntime(llama, "language")
    whole = runtime.logits(TOKENS)
    np.testing.assert_array_equal(runtime.start(TOKENS[:-2].tolist()), whole[-3])
    np.testing.assert_allclose(runtime.step(int(TOKENS[-2])), whole[-2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(runtime.step(int(TOKENS[-1])), whole[-1], rtol=0, atol=1e-5)


def test_a_runtime_in_the_place_of_a_model(llama: Path) -> None:
    runtime = TransformersRuntime(llama, "language")
    network = RuntimeNetwork(runtime, load_stored_config(str(llama)), load_generation_config(llama))
    ids = torch.arange(5, 12)[None]
    np.testing.assert_array_equal(network(input_ids=ids).logits[0].numpy(), runtime.logits(TOKENS))
    assert network.base_model is network
    assert network.device.type == "cpu"
    assert network.get_input_embeddings().weight.shape[1] == network.config.hidden_size


def test_every_runtime_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"transformers", "onnx", "genai", "llama_cpp"} <= set(runtimes.kinds())
    monkeypatch.setattr(runtimes.load_class("genai"), "package", "genai_of_tomorrow")
    assert not runtimes.is_installed("genai")
    with pytest.raises(ModelError, match="ONNX Runtime GenAI is not installed") as caught:
        runtimes.open_runtime("genai", tmp_path, "language")
    assert caught.value.fix == "pip install 'bottega[onnx]'"
