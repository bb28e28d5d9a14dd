"""A language model to talk to: prompts and conversations, log-probabilities, and what it was tuned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import bottega
from bottega.batch import Row
from bottega.errors import DataError, ModelError
from bottega.inference.language_model import LanguageModel
from bottega.records import Message
from bottega.sampling import Sampling
from making import make_model

CHATML = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}[assistant] {% endif %}"


@pytest.fixture(scope="module")
def model(llama: Path) -> LanguageModel:
    return bottega.load_language_model(llama, dtype="float32")


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = make_model(tmp_path_factory.mktemp("talker"), template=CHATML)
    return bottega.load_language_model(folder, dtype="float32")


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_logp_is_that_of_the_plain_model(kind: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / kind, kind)
    model = bottega.load_language_model(folder, dtype="float32")
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = [model.codec.encode_prompt(text) for text in ("the cat sat on the mat and ran", "the cat sat on", "red")]
    rows = [
        Row(np.array(ids), np.arange(len(ids) - 1), np.array(ids[1:]), np.full(len(ids) - 1, 0.5, np.float32))
        for ids in texts
    ]
    wanted = []
    for ids in texts:
        with torch.no_grad():
            logp = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted.append(0.5 * sum(float(logp[at - 1, ids[at]]) for at in range(1, len(ids))))
    assert model.logp(rows) == pytest.approx(wanted, rel=1e-4), "summed by weight"
    assert model.logp([]).shape == (0,)


def test_a_stream_is_the_text_in_pieces(model: LanguageModel) -> None:
    settings = Sampling(tokens=12, temperature=1.0, seed=5)
    ((whole,),) = model.generate(["the cat"], settings)
    pieces = list(model.stream("the cat", settings))
    assert len(pieces) > 1
    assert all(pieces)
    assert "".join(pieces) == whole.text


def test_a_conversation_is_written_by_the_chat_template(talker: LanguageModel) -> None:
    """Given as messages or as mappings, it is the text that the template makes of it."""
    settings = Sampling(tokens=6)
    turns = [{"role": "user", "content": "the cat"}]
    answer = talker.chat(turns, settings)
    assert talker.chat([Message("user", "the cat")], settings) == answer
    assert talker.generate(["[user] the cat\n[assistant] "], settings)[0][0].tokens == answer.tokens
    assert talker.room(turns) == talker.room("[user] the cat\n[assistant] ")


def test_a_template_may_be_given_in_place_of_its_own(talker: LanguageModel) -> None:
    other = LanguageModel(talker.name, dtype="float32", template="{{ bos_token }}{{ messages[0].content }}")
    turns = [{"role": "user", "content": "the cat"}]
    assert other.room(turns) == other.room("the cat") > talker.room(turns)


def test_room_is_what_the_prompt_leaves(model: LanguageModel) -> None:
    prompt = "the cat sat"
    assert model.limit == 128
    assert model.room(prompt) == 128 - len(model.codec.encode_prompt(prompt))
    ((written,),) = model.generate([prompt], Sampling(tokens=1000))
    assert len(written.tokens) == model.room(prompt) or written.reason == "end"


def test_a_prompt_without_room_is_refused(model: LanguageModel) -> None:
    with pytest.raises(DataError, match="and the model has 128 positions") as caught:
        model.generate(["the cat " * 200])
    assert caught.value.where == model.name


def test_a_conversation_must_be_one(talker: LanguageModel) -> None:
    for turns in ([], [{"role": "user"}], [{"role": "user", "content": 3}]):
        with pytest.raises(DataError, match="conversation"):
            talker.chat(turns)


def test_settings_of_the_checkpoint_without_effect_are_named(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"do_sample": True, "temperature": 0.6}))
    assert bottega.load_language_model(folder).ignored_settings == {"temperature": 0.6}


def test_all_end_tokens_of_the_checkpoint_end_an_answer(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [7, 9]}))
    assert bottega.load_language_model(folder).writer.ends >= {1, 7, 9}


def test_a_folder_was_tuned_from_nothing(model: LanguageModel) -> None:
    assert (model.recipe, model.origin) == (None, None)
    with pytest.raises(ModelError, match="nothing to compare with"), model.untuned():
        pass


def test_a_prompt_takes_no_room_from_its_answer(tmp_path: Path) -> None:
    """T5 writes a number of positions into its config, and has none."""
    folder = make_model(tmp_path / "model", "t5")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_positions": 16}))
    model = bottega.load(folder)
    written = model.generate(["the cat " * 20], Sampling(tokens=30, temperature=0))[0][0]
    assert len(written.tokens) == 30 or written.reason == "stop"
    assert model.room("the cat") > 1000


def test_tokens_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="token 300, but the model's vocab_size is 300"):
        bottega.load_language_model(folder).generate(["the cat <new>"])
