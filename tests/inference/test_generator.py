"""Generation: transformers' greedy decoding, and a batch that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bottega.inference.generator import Writer
from bottega.models.scorer_setup import fit_model
from bottega.packing import round_length
from bottega.sampling import Sampling
from making import make_model, shared_data

PROMPTS = ["the cat", "a dog ran on the mat under the tree and then it was", "red", "the cat", "one two three"]
KINDS = ("llama", "gpt2", "gemma2", "gemma3_text", "mistral", "qwen3", "phi3", "mixtral", "olmo2", "granite", "bloom")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from making import make_tokenizer

    return transformers.AutoTokenizer.from_pretrained(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def writer_of(kind: str, folder: Path, tokenizer: Any, **more: Any) -> Writer:
    # Mixture-of-experts kernels know no float64, and eager attention rounds its mask to float32 within it.
    dtype = torch.float32 if kind in ("mixtral", "gemma2") else torch.float64
    network = transformers.AutoModelForCausalLM.from_pretrained(make_model(folder, kind), dtype=dtype)
    fit = fit_model(network, "language").fit
    return Writer(network, tokenizer, frozenset([tokenizer.eos_token_id]), packed=fit.packed, **more)


@pytest.fixture(scope="module")
def llama_writer(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Writer:
    """One for tests that leave it as it is."""
    return writer_of("llama", tmp_path_factory.mktemp("llama"), tokenizer)


def ids(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


# Greedy


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_that_of_transformers(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    """Longer than the sliding windows, with padding between the prompts of the batch."""
    writer = writer_of(kind, tmp_path, tokenizer)
    found = writer.write(ids(tokenizer), Sampling(tokens=24))
    writer.network.set_attn_implementation("eager")
    for prompt, (ours,) in zip(ids(tokenizer), found, strict=True):
        grown = writer.network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=0,
        )
        assert ours.tokens == grown[0, len(prompt) :].tolist()
        assert ours.reason == ("end" if ours.tokens[-1] == tokenizer.eos_token_id else "length")


def test_a_real_model_generates_as_in_transformers() -> None:
    folder = shared_data("stories260K_hf")
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    writer = Writer(
        network, tokenizer, frozenset([tokenizer.eos_token_id]), packed=fit_model(network, "language").fit.packed
    )
    ((told,),) = writer.write([[tokenizer.bos_token_id]], Sampling(tokens=60))
    network.set_attn_implementation("sdpa")
    grown = network.generate(torch.tensor([[tokenizer.bos_token_id]]), max_new_tokens=60, do_sample=False)
    assert told.tokens == grown[0, 1:].tolist()
    assert told.text == tokenizer.decode(told.tokens, skip_special_tokens=True)
    assert told.text.lstrip().startswith("Once upon a time")


# Batches


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_continues_each_prompt_as_it_does_alone(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    writer = writer_of(kind, tmp_path, tokenizer)
    settings = Sampling(tokens=12, temperature=1.2, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.1, seed=3)
    together = writer.write(ids(tokenizer), settings, continuations=2)
    for place, prompt in enumerate(ids(tokenizer)):
        if place != 3:  # the second time a prompt is asked for, it continues otherwise
            assert writer.write([prompt], settings, continuations=2) == [together[place]]
    four = writer.write([ids(tokenizer)[0]], settings, continuations=4)
    assert four == [together[0] + together[3]]
    assert together[0][0].tokens != together[0][1].tokens


def test_a_prompt_is_computed_once(tmp_path: Path, tokenizer: Any) -> None:
    writer = writer_of("llama", tmp_path, tokenizer)
    sizes: list[tuple[int, ...]] = []
    writer.network.model.embed_tokens.register_forward_hook(lambda _, args, out: sizes.append(tuple(args[0].shape)))
    system = list(range(5, 45))
    writer.write([system], Sampling(tokens=4, temperature=1.0), continuations=7)
    assert sizes == [(1, 40)] + 3 * [(1, 7)]
    sizes.clear()
    writer.write([[*system, 60], [*system, 60], [*system, 70]], Sampling(tokens=2, temperature=1.0))
    assert sizes == [(1, round_length(42)), (1, 3)], "what prompts begin with is computed once too"


def test_many_prompts_go_in_groups(llama_writer: Writer, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Sampling(tokens=6, temperature=1.0)
    whole = llama_writer.write(ids(tokenizer), settings)
    monkeypatch.setattr("bottega.inference.generator.MAX_CACHED_TOKENS", 40)
    assert llama_writer.write(ids(tokenizer), settings) == whole


def test_the_model_is_left_as_it_was(tmp_path: Path, tokenizer: Any) -> None:
    writer = writer_of("llama", tmp_path, tokenizer)
    before, _ = writer.network.config._attn_implementation, writer.network.train()
    stream = writer.stream(ids(tokenizer), Sampling(tokens=4))
    next(stream)
    stream.close()
    assert writer.network.config._attn_implementation == before
    assert writer.network.training


def test_equal_seeds_give_equal_texts(llama_writer: Writer, tokenizer: Any) -> None:
    prompts = ids(tokenizer)[:1]
    first, again, other = (
        llama_writer.write(prompts, Sampling(tokens=12, temperature=1.5, seed=seed))[0][0].tokens for seed in (1, 1, 2)
    )
    assert first == again != other


# Ends


def test_a_continuation_stops_at_a_string_over_several_tokens(llama_writer: Writer, tokenizer: Any) -> None:
    prompts = ids(tokenizer)
    for free, prompt in zip(llama_writer.write(prompts, Sampling(tokens=20)), prompts, strict=True):
        text = free[0].text
        for start in range(1, len(text) - 3, 5):
            stop = text[start : start + 4]
            ((cut,),) = llama_writer.write([prompt], Sampling(tokens=20, stop=(stop, "never in it")))
            assert cut.text == text[: text.index(stop)]
            assert cut.reason == "stop"
            assert len(cut.tokens) <= len(free[0].tokens)


def test_pieces_make_up_the_text(llama_writer: Writer, tokenizer: Any) -> None:
    settings = Sampling(tokens=30, temperature=2.0, stop=("zzzz", "the dog"))
    whole = llama_writer.write(ids(tokenizer), settings)
    texts = [""] * len(PROMPTS)
    for piece in llama_writer.stream(ids(tokenizer), settings):
        texts[piece.index] += piece.text
    assert texts == [continuation.text for (continuation,) in whole]


def test_an_end_token_is_not_text(tmp_path: Path, tokenizer: Any) -> None:
    writer = writer_of("llama", tmp_path, tokenizer)
    prompt = ids(tokenizer)[1]
    ((free,),) = writer.write([prompt], Sampling(tokens=8))
    writer.ends = frozenset([free.tokens[5]])
    ((cut,),) = writer.write([prompt], Sampling(tokens=8))
    end = free.tokens.index(free.tokens[5])
    assert cut.tokens == free.tokens[: end + 1]
    assert cut.reason == "end"
    assert cut.text == tokenizer.decode(free.tokens[:end], skip_special_tokens=True)


def test_an_empty_prompt_is_refused(llama_writer: Writer, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="empty prompt"):
        llama_writer.write([[]], Sampling())
