"""Train a tiny random copy of every text model of transformers, and compare with a plain training loop.

    python benchmarks/models.py [--kind decoder encoder ...] [--only NAME ...] [--again] [--out FILE]

Each model is one process with a time limit. Whatever its config states in tokens (windows, chunks, budgets) is 40, and
rows have up to 110 tokens. All weights, biases included, are random, in float32. A plain transformers loop, with PEFT
for LoRA, gives the expected first loss and gradient norm, the expected loss of the saved result, and the 12 tokens
expected from greedy decoding. Results are kept in a file, so that an interrupted sweep continues where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import peft
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import bottega
from bottega.errors import BottegaError
from bottega.models.config import is_encoder, position_limit
from bottega.models.small_copy import nested_configs, sharpen_weights, small_copies
from bottega.sampling import Sampling
from bottega.seeding import derive
from bottega.training.setup import build
from bottega.training.step import sample_examples

RESULT = Path(__file__).parent / "results" / "models_2xEPYC_2026-11-28.md"
# Tokens that windows and the like are set to, tokens of the longest row, and size of the vocabulary.
WINDOW, LONGEST, VOCABULARY = 40, 110, 96

# (tokens of the prompt, tokens of the answer) of each row; the second and the third share their prompt.
LENGTHS = ((5, 4), (30, 12), (30, 20), (60, 50), (12, 7))

# Relative, for losses and gradient norms. Another order of float32 sums differs by less, unless the model itself is
# imprecise.
TOLERANCE = 2e-4

SECONDS = 120

# Kind → (transformers' mapping, the objective, the class that loads a result).
KINDS: dict[str, tuple[str, str, str]] = {
    "decoder": ("CAUSAL_LM", "sft", "AutoModelForCausalLM"),
    "encoder": ("MASKED_LM", "masked", "AutoModelForMaskedLM"),
    "encoder-decoder": ("SEQ_TO_SEQ_CAUSAL_LM", "sft", "AutoModelForSeq2SeqLM"),
    "classifier": ("SEQUENCE_CLASSIFICATION", "classify", "AutoModelForSequenceClassification"),
}

QWEN4 = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
DOTS3 = {"head_dim": 192, "qk_nope_head_dim": 64, "swa_head_dim": 192, "swa_qk_nope_head_dim": 128}

# Config values that a model needs and that transformers' defaults leave inconsistent.
OVERRIDES: dict[str, dict[str, Any]] = {
    "hunyuan_v1_dense": {"head_dim": 64},
    "hunyuan_v1_moe": {"head_dim": 64},
    "ministral": {"head_dim": 64},
    "nemotron": {"head_dim": 64, "num_key_value_heads": 24},
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 3, "position_embedding_type": "rotary"},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "bamba": {"attn_layer_indices": [1, 3]},
    "xmod": {"default_language": "en_XX"},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note": {"text_config": DOTS3},
    "dots3_note_text": DOTS3,
    "esmc": {"vocab_size": VOCABULARY},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 16},
    "hrm_text": {"num_hidden_layers": 1, "H_cycles": 1, "L_cycles": 1},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "zamba": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4},
    "zamba2": {"hidden_size": 32, "num_attention_heads": 4, "n_mamba_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
}

BLT_PART = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48}
BLT_PART |= {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "max_position_embeddings": 256}

# Complete small configs, for models whose parts have widths that depend on each other.
SMALL: dict[str, dict[str, Any]] = {
    "blt": {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "encoder_hash_byte_group_vocab": 500,
        "encoder_hash_byte_group_size": [3, 4],
        "patcher_config": BLT_PART,
        "global_config": BLT_PART,
        "encoder_config": {**BLT_PART, "hidden_size_global": 32},
        "decoder_config": {**BLT_PART, "hidden_size_global": 32},
    },
}

# "model (variant)" → config values that some checkpoints of the model have.
VARIANTS: dict[str, dict[str, Any]] = {
    "bert-generation (is_decoder)": {"is_decoder": True},
    "xlm (causal)": {"causal": True},
    "lfm2 (conv)": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "minimax_m3_vl_text (sparse)": {"layer_types": ["full_attention", "minimax_m3_sparse"] * 30},
    "phi3 (longrope)": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 48,
            "long_factor": [4.0] * 48,
            "original_max_position_embeddings": 4096,
        }
    },
}

AUDIO = "needs audio input"
CHUNKS = "only trains on texts whose length is a multiple of its chunk size"

# Why plain transformers does not train a model on text.
UNSUPPORTED = {
    **dict.fromkeys(("musicgen", "musicgen_melody"), "generates audio, not text"),
    **dict.fromkeys(("vibevoice_asr", "voxtral_realtime"), AUDIO),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "a draft model for a larger one"),
    "gemma3n": "its vision part needs a library that is not installed; gemma3n_text is its text part",
    "layoutlmv2": "needs a library that is not installed",
    "reformer": CHUNKS,
}

LATE = "generate numbers positions from 0, the forward from the padding index + 1"

# Why the scores of `generate` differ from those of the model's own forward.
CAUSES = {
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm"), LATE),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "xmod"), LATE),
    "nemotron_h": "a decoding step of its recurrence differs from the forward over the whole text",
    "phi4_multimodal": "cached keys are not updated when the rotation changes at a certain length",
    "xlm (causal)": "generate appends a mask token to the input",
    "prophetnet": "its forward gives other scores with a KV cache",
}

# Special tokens of the tokenizer below.
TOKENS = {
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "mask_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 1,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "forced_bos_token_id": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--again", action="store_true", help="repeat models that have a result already")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="time limit of each model")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "bottega-models.jsonl")
    options = parser.parse_args()
    results = {(row["kind"], row["model"]): row for row in _read_results(options.results)}
    wanted = [
        (kind, name) for kind in options.kind for name in _names(kind) if not options.only or name in options.only
    ]
    for number, (kind, name) in enumerate(wanted, 1):
        if (kind, name) in results and not options.again:
            continue
        row = _run_trial(kind, name, options.seconds)
        results[kind, name] = row
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{number}/{len(wanted)} {_cells(row)}", flush=True)
        options.out.write_text(format_table(list(results.values())), encoding="utf-8")
    options.out.write_text(format_table(list(results.values())), encoding="utf-8")
    print(f"written: {options.out}")


def _names(kind: str) -> list[str]:
    return [*getattr(auto, f"MODEL_FOR_{KINDS[kind][0]}_MAPPING_NAMES"), *(VARIANTS if kind == "decoder" else ())]


def _read_results(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _run_trial(kind: str, name: str, seconds: int) -> dict[str, Any]:
    """The result of a model's trial in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_trial, args=(sender, kind, name))
    process.start()
    sender.close()
    row: dict[str, Any] = {"kind": kind, "model": name, "note": f"not finished after {seconds} s"}
    with contextlib.suppress(EOFError):
        if receiver.poll(seconds):
            row["note"] = "its process crashed"
            row = receiver.recv()
    process.kill()
    process.join()
    return row


def _send_trial(pipe: Any, kind: str, name: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    folder = Path(tempfile.mkdtemp())
    try:
        pipe.send(Trial(kind, name, folder).row())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """One model: made, trained by bottega and by a plain loop, and compared."""

    def __init__(self, kind: str, name: str, folder: Path) -> None:
        self.kind, self.name, self.folder = kind, name, folder
        self.mapping, self.objective, loader = KINDS[kind]
        self.auto = getattr(transformers, loader)
        # FSMT masks later tokens only without a cache; classifiers have none, and T5Gemma's rejects the keyword.
        self.no_cache = {} if kind == "classifier" else {"use_cache": False}
        self.result: dict[str, Any] = {"kind": kind, "model": name}

    def row(self) -> dict[str, Any]:
        try:
            self._make_model()
        except Exception as error:
            why = UNSUPPORTED.get(self.name)
            self.result["note"] = f"{why}: {_short(error)}" if why else f"plain transformers: {_short(error)}"
            return self.result
        self._write_rows()
        for method in ("full", "lora"):
            self._compare(method)
        return self.result

    def _make_model(self) -> None:
        """Save a small model and its word-level tokenizer."""
        model_type = self.name.partition(" ")[0]
        values = (SMALL | OVERRIDES).get(model_type, {}) | VARIANTS.get(self.name, {})
        config = CONFIG_MAPPING[model_type](**values)
        model_class = getattr(auto, f"MODEL_FOR_{self.mapping}_MAPPING")[type(config)]
        model_class = model_class[0] if isinstance(model_class, tuple) else model_class
        if model_class.config_class is type(config.get_text_config()):
            config = config.get_text_config()
        for part in nested_configs(config):
            self._configure(part)
        torch.manual_seed(0)
        errors = []
        small = (sharpen_weights(model_class(config)).eval() for _ in "1") if model_type in SMALL else None
        for model in small or (copy.model for copy in small_copies(model_class, config, WINDOW, LONGEST)):
            try:
                self._check_runs(model)
                break
            except Exception as error:
                errors.append(error)
        else:
            raise errors[0]
        if model.can_generate():
            tokens = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2, "decoder_start_token_id": 2}
            model.generation_config = transformers.GenerationConfig(**tokens)
        model.save_pretrained(str(self.folder / "model"))
        _tokenizer().save_pretrained(str(self.folder / "model"))

    def _configure(self, part: Any) -> None:
        for name, token in TOKENS.items():
            starts = name == "decoder_start_token_id" and getattr(part, "is_encoder_decoder", False)
            if getattr(part, name, None) is not None or name in ("pad_token_id", "eos_token_id") or starts:
                with contextlib.suppress(AttributeError, NotImplementedError):
                    setattr(part, name, token)
        if self.kind == "decoder" and is_encoder(part):
            part.is_decoder = True
        if self.kind == "classifier":
            part.num_labels = 2
            part.problem_type = None

    def _check_runs(self, model: Any) -> None:
        """One forward and backward pass of plain transformers; raises what it raises."""
        ids = torch.arange(5, 5 + 50)[None] % VOCABULARY
        ids[0, -1] = 1
        inputs = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :20]} if self.kind == "encoder-decoder" else {})
        model.train()(**inputs, **self.no_cache).logits.pow(2).sum().backward()
        model.eval().zero_grad()

    def _write_rows(self) -> None:
        rng = random.Random(0)
        shared = [rng.randrange(5, VOCABULARY) for _ in range(30)]
        lines = []
        for index, (prompt_length, answer_length) in enumerate(LENGTHS):
            prompt = shared if prompt_length == 30 else [rng.randrange(5, VOCABULARY) for _ in range(prompt_length)]
            prompt, answer = _text(prompt), _text([rng.randrange(5, VOCABULARY) for _ in range(answer_length)])
            rows = {
                "masked": {"text": f"{prompt} {answer}"},
                "classify": {"text": f"{prompt} {answer}", "label": "ab"[index % 2]},
            }
            lines.append(rows.get(self.objective, {"prompt": prompt, "completion": f" {answer}"}))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        for name in ("train", "valid"):
            (self.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        self.prompt = lines[1].get("prompt", "")

    def _compare(self, method: str) -> None:
        """Train with every weight or with LoRA, and add the comparison with the plain loop to the result."""
        out = self.folder / method
        try:
            events = list(bottega.train(self._recipe(method), out))
        except Exception as error:
            why = _short(error).replace(f"{self.folder}/", "")
            self.result[method] = f"refused: {why}" if isinstance(error, BottegaError) else f"CRASH {why}"
            with contextlib.suppress(Exception):
                self._plain(method, None)
                self.result[method] += " (the plain loop trains)"
            return
        notes = [event.message for event in events if event.type == "noted" and event.subject in ("packing", "adapter")]
        place = json.loads((out / "place.json").read_text(encoding="utf-8"))
        self.result["packed"] = "packed" if place["choices"]["fit"]["packed"] else "alone"
        self.result["why"] = place["choices"]["fit"]["reason"]
        self.result.setdefault("notes", []).extend(note for note in notes if "adapter" in note or "LoRA" in note)
        stepped = next(event for event in events if event.type == "stepped")
        final_loss = [event.loss for event in events if event.type == "validated"][-1]
        run = build(self._recipe(method), place)
        update = next(iter(run.sampler.updates(0, 0)))
        rows = [example.rows[0] for example in sample_examples(run, update).examples]
        validation_rows = [example.rows[0] for example in run.held_out]
        try:
            plain = self._plain_step(method, out, rows, torch.float32)
        except Exception as error:
            self.result[method] = f"the plain loop fails: {_short(error)}"
            return
        self.result[method] = _verdict(
            {name: _relative_difference(getattr(stepped, name), value) for name, value in plain.items()}
        )
        if self.result[method] != "exact":
            with contextlib.suppress(Exception):  # some models compute in float32 whatever the dtype of their weights
                self.result[method] = self._compare_in_float64(
                    stepped, plain, self._plain_step(method, out, rows, torch.float64)
                )
        self.result.setdefault("reload", {})[method] = self._reload(method, out, validation_rows, final_loss)
        if self.objective == "sft" and method == "full":
            self.result["writes"] = self._generate(method, out)

    def _plain_step(self, method: str, out: Path, rows: list[Any], dtype: torch.dtype) -> dict[str, float]:
        """Loss and gradient norm of the plain loop."""
        model = self._plain(method, out).to(dtype)
        loss = self._loss(model.train(), rows)
        loss.backward()
        norm = (
            sum(float(weight.grad.double().pow(2).sum()) for weight in model.parameters() if weight.grad is not None)
            ** 0.5
        )
        return {"loss": float(loss), "grad_norm": norm}

    @staticmethod
    def _compare_in_float64(stepped: Any, plain: dict[str, float], truth: dict[str, float]) -> str:
        """The verdict for an imprecise model: the error against float64 may be three times that of the plain loop."""
        differences = {}
        for name, value in truth.items():
            allowed = max(TOLERANCE, 3 * _relative_difference(plain[name], value))
            differences[name] = _relative_difference(getattr(stepped, name), value) * TOLERANCE / allowed
        return _verdict(differences)

    def _recipe(self, method: str) -> Any:
        sections: dict[str, Any] = {
            "model": {"base": str(self.folder / "model"), "dtype": "float32"},
            "objective": {"kind": self.objective},
            "data": {"train": str(self.folder / "train.jsonl"), "validation": str(self.folder / "valid.jsonl")},
            "optim": {"steps": 1, "examples": len(LENGTHS), "lr": 1e-3},
            "evaluate": {"every": 1},
        }
        if method == "lora":
            sections["adapter"] = {"rank": 4}
        path = self.folder / f"{method}.yaml"
        path.write_text(json.dumps(sections), encoding="utf-8")
        return bottega.Recipe.load(path)

    def _plain(self, method: str, out: Path | None) -> Any:
        """The initial model for the plain loop; for LoRA with PEFT's adapter on the layers that bottega adapted."""
        options = {"num_labels": 2} if self.objective == "classify" else {}
        torch.manual_seed(derive(0, "weights"))
        model = self.auto.from_pretrained(str(self.folder / "model"), dtype=torch.float32, **options)
        if method == "full":
            return model
        if out is None:
            return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
        config = peft.LoraConfig.from_pretrained(str(out / "adapter"))
        config.inference_mode = False
        torch.manual_seed(derive(0, "adapter"))
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False)

    def _loss(self, model: Any, rows: list[Any]) -> Any:
        """The mean negative log-likelihood of all labels, one row per forward pass."""
        losses, weight = [], 0.0
        for row in rows:
            ids = torch.from_numpy(row.tokens if row.source is None else row.computed_tokens)[None]
            inputs = {"input_ids": ids}
            if row.source is not None:
                inputs = {"input_ids": torch.from_numpy(row.source)[None], "decoder_input_ids": ids}
            logits = model(**inputs, **self.no_cache).logits[0]
            logits = logits[None] if self.objective == "classify" else logits[torch.from_numpy(row.at)]
            row_losses = cross_entropy(logits, torch.from_numpy(row.label), reduction="none")
            losses.append((row_losses * torch.from_numpy(row.weight)).sum())
            weight += float(row.weight.sum())
        return sum(losses) / weight

    def _reload(self, method: str, out: Path, rows: list[Any], expected: float) -> str:
        """Compare the loss of the saved result, loaded by plain transformers, with the run's last validation loss."""
        try:
            model = self._result(method, out)
            with torch.no_grad():
                return _verdict({"loss": _relative_difference(expected, float(self._loss(model, rows)))})
        except Exception as error:
            return f"CRASH {_short(error)}"

    def _result(self, method: str, out: Path) -> Any:
        if method == "full":
            return self.auto.from_pretrained(str(out / "model"), dtype=torch.float32).eval()
        options = {"num_labels": 2} if self.objective == "classify" else {}
        torch.manual_seed(derive(0, "weights"))
        base = self.auto.from_pretrained(str(self.folder / "model"), dtype=torch.float32, **options)
        return peft.PeftModel.from_pretrained(base, str(out / "adapter"), autocast_adapter_dtype=False).eval()

    def _generate(self, method: str, out: Path) -> str:
        """Compare twelve greedy tokens with those of transformers' `generate`."""
        try:
            ours = bottega.load(out, dtype="float32")
            (continuation,) = ours.generate([self.prompt], Sampling(tokens=12))[0]
            ids = ours.codec.encode_prompt(self.prompt)
        except Exception as error:
            return _refusal(error)
        try:
            model = self._result(method, out)
            options = {"do_sample": False, "max_new_tokens": 12, "return_dict_in_generate": True, "output_logits": True}
            output = model.generate(input_ids=torch.tensor([ids]), **options)
        except Exception as error:
            return f"the plain loop fails: {_short(error)}"
        start = 1 if model.config.is_encoder_decoder else len(ids)
        expected, count = output.sequences[0, start:].tolist(), len(continuation.tokens)
        at_limit = start + count == position_limit(model.config)
        if continuation.tokens == (expected[:count] if at_limit else expected):
            return f"{count} of {count}"
        if continuation.tokens == self._greedy(model, ids, count):
            return f"as its forward; {self._explain_generate(model, ids, output)}"
        return f"DIFFERS {continuation.tokens} not {expected}"

    def _explain_generate(self, model: Any, ids: list[int], output: Any) -> str:
        """Where the scores of `generate` differ from those of the model's own forward."""
        start = 1 if model.config.is_encoder_decoder else len(ids)
        for index, scores in enumerate(output.logits):
            prefix = output.sequences[:, : start + index]
            with torch.no_grad():
                expected = model(**_inputs(ids, prefix, start), use_cache=False).logits[0, -1]
            difference = float((scores[0] - expected).abs().max() / expected.abs().max())
            if difference > TOLERANCE:
                cause = CAUSES.get(self.name, "")
                suffix = f": {cause}" if cause else ""
                return f"the scores of its generate differ by {difference:.0e} from token {index + 1} on{suffix}"
        return "its generate chooses other tokens by the same scores"

    def _greedy(self, model: Any, ids: list[int], count: int) -> list[int]:
        """Greedy decoding by the forward that was trained, without a cache."""
        tokens = [2] if model.config.is_encoder_decoder else list(ids)
        start = len(tokens)
        with torch.no_grad():
            for _ in range(count):
                inputs = _inputs(ids, torch.tensor([tokens]), start)
                tokens.append(int(model(**inputs, use_cache=False).logits[0, -1].argmax()))
        return tokens[start:]


def _inputs(ids: list[int], prefix: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
    """The model's inputs for the next token; an encoder–decoder starts with one decoder token."""
    return {"input_ids": torch.tensor([ids]), "decoder_input_ids": prefix} if start == 1 else {"input_ids": prefix}


def _tokenizer() -> Any:
    words = {"<pad>": 0, "</s>": 1, "<s>": 2, "<mask>": 3, "<unk>": 4}
    words |= {f"w{number}": number for number in range(5, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "eos_token", "bos_token", "mask_token", "unk_token"), words, strict=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def _text(words: list[int]) -> str:
    return " ".join(f"w{word}" for word in words)


def _relative_difference(actual: float, expected: float) -> float:
    return abs(actual - expected) / max(abs(expected), 1e-12)


def _verdict(differences: dict[str, float]) -> str:
    wrong = [f"{name} by {difference:.1e}" for name, difference in differences.items() if not difference <= TOLERANCE]
    return "DIFFERS: " + ", ".join(wrong) if wrong else "exact"


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    where = "" if isinstance(error, BottegaError) else f" ({traceback.extract_tb(error.__traceback__)[-1].name})"
    return f"{type(error).__name__}: {lines[0][:160]}{where}"


def _refusal(error: Exception) -> str:
    return f"refused: {_short(error)}" if isinstance(error, BottegaError) else f"CRASH {_short(error)}"


def _cells(row: dict[str, Any]) -> str:
    reload = row.get("reload", {})
    is_same = len(set(reload.values())) == 1
    per_method = "; ".join(f"{method}: {verdict}" for method, verdict in reload.items())
    packed = row.get("packed", "") + (f" ({row['why']})" if row.get("why") else "")
    note = "; ".join([*row.get("notes", []), *([row["note"]] if "note" in row else [])])
    cells = [
        row["model"],
        row["kind"],
        row.get("full", ""),
        row.get("lora", ""),
        packed,
        next(iter(reload.values())) if is_same else per_method,
        row.get("writes", ""),
        note,
    ]
    return " | ".join(cell.replace("|", "/") for cell in cells)


def format_table(rows: list[dict[str, Any]]) -> str:
    """The results as a Markdown page, sorted by kind."""
    counts = Counter(row["kind"] for row in rows if row.get("full") == "exact")
    totals = ", ".join(f"{counts[kind]} {kind}s" for kind in KINDS if counts[kind])
    head = [
        "# Every text model of transformers",
        "",
        f"{date.today()}; transformers {transformers.__version__}, torch {torch.__version__}, peft {peft.__version__};",
        "`make models`. Tiny random copies, float32, windows and budgets of 40, rows of up to 110 tokens, compared",
        "with a plain training loop.",
        f"{len(rows)} rows; exact in full fine-tuning: {totals}.",
        "",
        "| model | kind | full | LoRA | packed or alone | reload | generation | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = list(KINDS)
    rows = sorted(rows, key=lambda row: (order.index(row["kind"]), row["model"]))
    return "\n".join([*head, *(f"| {_cells(row)} |" for row in rows)]) + "\n"


if __name__ == "__main__":
    main()
