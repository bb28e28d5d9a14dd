"""Train every text model of the installed transformers, tiny and random, beside a plain loop, and compare.

    python benchmarks/models.py [--kind decoder encoder ...] [--only NAME ...] [--again] [--out FILE]

Each model is one process, which is given up after a time. Whatever counts tokens in its config (windows, chunks,
budgets) is 40, and rows have up to 110 tokens; weights are random, vectors too; float32. A plain loop of transformers,
with PEFT for LoRA, says what the first loss and the norm of its gradient must be, what the saved result must score, and
which 12 tokens greedy decoding must write. What was found stays in a file of its own, so that a sweep that was cut goes
on where it was.
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
from bottega.training.step import draw

RESULT = Path(__file__).parent / "results" / "models_2xEPYC_2026-11-28.md"
NEAR, LONGEST, VOCABULARY = 40, 110, 96

# Tokens of prompt and answer of each row; the second and the third begin alike.
LENGTHS = ((5, 4), (30, 12), (30, 20), (60, 50), (12, 7))

# Of losses and norms, relative; float32 sums in another order differ by less, if float32 is not itself as far off.
TOLERANCE = 2e-4

SECONDS = 120

# transformers' mapping, the objective, and the way to load a result.
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

# What a config needs that transformers' default leaves open.
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

# Configs that are small as they stand, of models whose parts have widths that hang together.
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

# What a decoder has in some checkpoints, by its name and that of the variant.
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

SOUND = "it reads sound, and does not run without"
CHUNKS = "it trains on texts only whose length is a multiple of its chunks"

# Why plain transformers does not train a model on text as it is.
OUTSIDE = {
    **dict.fromkeys(("musicgen", "musicgen_melody"), "it writes sound, not text"),
    **dict.fromkeys(("vibevoice_asr", "voxtral_realtime"), SOUND),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "it drafts for a larger model"),
    "gemma3n": "its part for pictures needs a library that is not here; gemma3n_text is its part for text",
    "layoutlmv2": "it needs a library that is not here",
    "reformer": CHUNKS,
}

LATE = "it numbers positions from 0, its forward from behind the padding token"

# Why `generate` does not go by a model's own forward.
CAUSES = {
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm"), LATE),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "xmod"), LATE),
    "nemotron_h": "a step of its recurrence is not computed as a text is",
    "phi4_multimodal": "keys kept from before the length where its rotation changes stay as they were",
    "xlm (causal)": "it adds a mask token to what it is given",
    "prophetnet": "its forward gives other scores where it keeps keys",
}

# Those of the tokenizer here.
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
    parser.add_argument("--again", action="store_true", help="also what was found before")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="given to each model")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--found", type=Path, default=Path(tempfile.gettempdir()) / "bottega-models.jsonl")
    options = parser.parse_args()
    found = {(row["kind"], row["model"]): row for row in _lines(options.found)}
    wanted = [
        (kind, name) for kind in options.kind for name in _names(kind) if not options.only or name in options.only
    ]
    for number, (kind, name) in enumerate(wanted, 1):
        if (kind, name) in found and not options.again:
            continue
        row = _alone(kind, name, options.seconds)
        found[kind, name] = row
        with options.found.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{number}/{len(wanted)} {_cells(row)}", flush=True)
        options.out.write_text(table(list(found.values())), encoding="utf-8")
    options.out.write_text(table(list(found.values())), encoding="utf-8")
    print(f"written: {options.out}")


def _names(kind: str) -> list[str]:
    return [*getattr(auto, f"MODEL_FOR_{KINDS[kind][0]}_MAPPING_NAMES"), *(VARIANTS if kind == "decoder" else ())]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _alone(kind: str, name: str, seconds: int) -> dict[str, Any]:
    """What is found of a model by a process of its own."""
    context = multiprocessing.get_context("fork")
    mine, other = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(other, kind, name))
    process.start()
    other.close()
    row: dict[str, Any] = {"kind": kind, "model": name, "note": f"not done after {seconds} s"}
    with contextlib.suppress(EOFError):
        if mine.poll(seconds):
            row["note"] = "its process died"
            row = mine.recv()
    process.kill()
    process.join()
    return row


def _tell(pipe: Any, kind: str, name: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    folder = Path(tempfile.mkdtemp())
    try:
        pipe.send(Trial(kind, name, folder).row())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """One model: made, trained by us and by a plain loop, and compared."""

    def __init__(self, kind: str, name: str, folder: Path) -> None:
        self.kind, self.name, self.folder = kind, name, folder
        self.mapping, self.objective, loader = KINDS[kind]
        self.auto = getattr(transformers, loader)
        # FSMT hides what comes next only so; classifiers keep nothing, and T5Gemma's does not know the keyword.
        self.uncached = {} if kind == "classifier" else {"use_cache": False}
        self.found: dict[str, Any] = {"kind": kind, "model": name}

    def row(self) -> dict[str, Any]:
        try:
            self._made()
        except Exception as error:
            why = OUTSIDE.get(self.name)
            self.found["note"] = f"{why}: {_short(error)}" if why else f"plain transformers: {_short(error)}"
            return self.found
        self._write_rows()
        for way in ("full", "lora"):
            self._compare(way)
        return self.found

    def _made(self) -> None:
        """A small model saved in a folder, with a tokenizer of words."""
        kind = self.name.partition(" ")[0]
        given = (SMALL | OVERRIDES).get(kind, {}) | VARIANTS.get(self.name, {})
        config = CONFIG_MAPPING[kind](**given)
        model_class = getattr(auto, f"MODEL_FOR_{self.mapping}_MAPPING")[type(config)]
        model_class = model_class[0] if isinstance(model_class, tuple) else model_class
        if model_class.config_class is type(config.get_text_config()):
            config = config.get_text_config()
        for part in nested_configs(config):
            self._configure(part)
        torch.manual_seed(0)
        errors = []
        small = (sharpen_weights(model_class(config)).eval() for _ in "1") if kind in SMALL else None
        for model in small or (copy.model for copy in small_copies(model_class, config, NEAR, LONGEST)):
            try:
                self._played(model)
                break
            except Exception as error:
                errors.append(error)
        else:
            raise errors[0]
        if model.can_generate():
            ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2, "decoder_start_token_id": 2}
            model.generation_config = transformers.GenerationConfig(**ends)
        model.save_pretrained(str(self.folder / "model"))
        _tokenizer().save_pretrained(str(self.folder / "model"))

    def _configure(self, part: Any) -> None:
        for name, token in TOKENS.items():
            begins = name == "decoder_start_token_id" and getattr(part, "is_encoder_decoder", False)
            if getattr(part, name, None) is not None or name in ("pad_token_id", "eos_token_id") or begins:
                with contextlib.suppress(AttributeError, NotImplementedError):
                    setattr(part, name, token)
        if self.kind == "decoder" and is_encoder(part):
            part.is_decoder = True
        if self.kind == "classifier":
            part.num_labels = 2
            part.problem_type = None

    def _played(self, model: Any) -> None:
        """One row forward and back, by nothing but transformers."""
        ids = torch.arange(5, 5 + 50)[None] % VOCABULARY
        ids[0, -1] = 1
        given = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :20]} if self.kind == "encoder-decoder" else {})
        model.train()(**given, **self.uncached).logits.pow(2).sum().backward()
        model.eval().zero_grad()

    def _write_rows(self) -> None:
        draw = random.Random(0)
        shared = [draw.randrange(5, VOCABULARY) for _ in range(30)]
        lines = []
        for number, (asked, told) in enumerate(LENGTHS):
            prompt = shared if asked == 30 else [draw.randrange(5, VOCABULARY) for _ in range(asked)]
            prompt, answer = _text(prompt), _text([draw.randrange(5, VOCABULARY) for _ in range(told)])
            one = {
                "masked": {"text": f"{prompt} {answer}"},
                "classify": {"text": f"{prompt} {answer}", "label": "ab"[number % 2]},
            }
            lines.append(one.get(self.objective, {"prompt": prompt, "completion": f" {answer}"}))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        for name in ("train", "valid"):
            (self.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        self.prompt = lines[1].get("prompt", "")

    def _compare(self, way: str) -> None:
        """Train in one of the two ways, and put what differs from a plain loop into the row."""
        out = self.folder / way
        try:
            events = list(bottega.train(self._recipe(way), out))
        except Exception as error:
            why = _short(error).replace(f"{self.folder}/", "")
            self.found[way] = f"refused: {why}" if isinstance(error, BottegaError) else f"CRASH {why}"
            with contextlib.suppress(Exception):
                self._plain(way, None)
                self.found[way] += " (plain trains)"
            return
        notes = [event.message for event in events if event.type == "noted" and event.subject in ("packing", "adapter")]
        place = json.loads((out / "place.json").read_text(encoding="utf-8"))
        self.found["packed"] = "packed" if place["choices"]["fit"]["packed"] else "alone"
        self.found["why"] = place["choices"]["fit"]["reason"]
        self.found.setdefault("notes", []).extend(note for note in notes if "adapter" in note or "LoRA" in note)
        stepped = next(event for event in events if event.type == "stepped")
        after = [event.loss for event in events if event.type == "validated"][-1]
        run = build(self._recipe(way), place)
        update = next(iter(run.sampler.updates(0, 0)))
        rows = [example.rows[0] for example in draw(run, update).examples]
        held = [example.rows[0] for example in run.held_out]
        try:
            plain = self._stepped(way, out, rows, torch.float32)
        except Exception as error:
            self.found[way] = f"plain cannot: {_short(error)}"
            return
        self.found[way] = _verdict({name: _apart(getattr(stepped, name), one) for name, one in plain.items()})
        if self.found[way] != "exact":
            with contextlib.suppress(Exception):  # some compute in float32 whatever their weights are
                self.found[way] = self._judged(stepped, plain, self._stepped(way, out, rows, torch.float64))
        self.found.setdefault("reload", {})[way] = self._reloaded(way, out, held, after)
        if self.objective == "sft" and way == "full":
            self.found["writes"] = self._written(way, out)

    def _stepped(self, way: str, out: Path, rows: list[Any], dtype: torch.dtype) -> dict[str, float]:
        """Loss and norm of the gradient by the plain loop."""
        model = self._plain(way, out).to(dtype)
        loss = self._loss(model.train(), rows)
        loss.backward()
        norm = sum(float(one.grad.double().pow(2).sum()) for one in model.parameters() if one.grad is not None) ** 0.5
        return {"loss": float(loss), "grad_norm": norm}

    @staticmethod
    def _judged(stepped: Any, plain: dict[str, float], truth: dict[str, float]) -> str:
        """The verdict where plain's own rounding is large: ours may be three times as far from what float64 gives."""
        apart = {}
        for name, one in truth.items():
            allowed = max(TOLERANCE, 3 * _apart(plain[name], one))
            apart[name] = _apart(getattr(stepped, name), one) * TOLERANCE / allowed
        return _verdict(apart)

    def _recipe(self, way: str) -> Any:
        sections: dict[str, Any] = {
            "model": {"base": str(self.folder / "model"), "dtype": "float32"},
            "objective": {"kind": self.objective},
            "data": {"train": str(self.folder / "train.jsonl"), "validation": str(self.folder / "valid.jsonl")},
            "optim": {"steps": 1, "examples": len(LENGTHS), "lr": 1e-3},
            "evaluate": {"every": 1},
        }
        if way == "lora":
            sections["adapter"] = {"rank": 4}
        path = self.folder / f"{way}.yaml"
        path.write_text(json.dumps(sections), encoding="utf-8")
        return bottega.Recipe.load(path)

    def _plain(self, way: str, out: Path | None) -> Any:
        """The model as it begins, with PEFT's own adapter, on what ours was put on."""
        more = {"num_labels": 2} if self.objective == "classify" else {}
        torch.manual_seed(derive(0, "weights"))
        model = self.auto.from_pretrained(str(self.folder / "model"), dtype=torch.float32, **more)
        if way == "full":
            return model
        if out is None:
            return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
        config = peft.LoraConfig.from_pretrained(str(out / "adapter"))
        config.inference_mode = False
        torch.manual_seed(derive(0, "adapter"))
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False)

    def _loss(self, model: Any, rows: list[Any]) -> Any:
        """The mean negative log-likelihood of all labels, a row a forward."""
        losses, weight = [], 0.0
        for row in rows:
            ids = torch.from_numpy(row.tokens if row.source is None else row.computed_tokens)[None]
            given = {"input_ids": ids}
            if row.source is not None:
                given = {"input_ids": torch.from_numpy(row.source)[None], "decoder_input_ids": ids}
            logits = model(**given, **self.uncached).logits[0]
            logits = logits[None] if self.objective == "classify" else logits[torch.from_numpy(row.at)]
            one = cross_entropy(logits, torch.from_numpy(row.label), reduction="none")
            losses.append((one * torch.from_numpy(row.weight)).sum())
            weight += float(row.weight.sum())
        return sum(losses) / weight

    def _reloaded(self, way: str, out: Path, rows: list[Any], wanted: float) -> str:
        """What plain transformers makes of the saved result, beside what the run itself scored last."""
        try:
            model = self._result(way, out)
            with torch.no_grad():
                return _verdict({"loss": _apart(wanted, float(self._loss(model, rows)))})
        except Exception as error:
            return f"CRASH {_short(error)}"

    def _result(self, way: str, out: Path) -> Any:
        if way == "full":
            return self.auto.from_pretrained(str(out / "model"), dtype=torch.float32).eval()
        more = {"num_labels": 2} if self.objective == "classify" else {}
        torch.manual_seed(derive(0, "weights"))
        base = self.auto.from_pretrained(str(self.folder / "model"), dtype=torch.float32, **more)
        return peft.PeftModel.from_pretrained(base, str(out / "adapter"), autocast_adapter_dtype=False).eval()

    def _written(self, way: str, out: Path) -> str:
        """Twelve greedy tokens by us and by `generate`."""
        try:
            ours = bottega.load(out, dtype="float32")
            (found,) = ours.generate([self.prompt], Sampling(tokens=12))[0]
            ids = ours.codec.encode_prompt(self.prompt)
        except Exception as error:
            return _refusal(error)
        try:
            model = self._result(way, out)
            given = {"do_sample": False, "max_new_tokens": 12, "return_dict_in_generate": True, "output_logits": True}
            written = model.generate(input_ids=torch.tensor([ids]), **given)
        except Exception as error:
            return f"plain cannot: {_short(error)}"
        begun = 1 if model.config.is_encoder_decoder else len(ids)
        wanted, count = written.sequences[0, begun:].tolist(), len(found.tokens)
        full = begun + count == position_limit(model.config)
        if found.tokens == (wanted[:count] if full else wanted):
            return f"{count} of {count}"
        if found.tokens == self._greedy(model, ids, count):
            return f"as its forward says; {self._strays(model, ids, written)}"
        return f"DIFFERS {found.tokens} not {wanted}"

    def _strays(self, model: Any, ids: list[int], written: Any) -> str:
        """Where the scores that `generate` goes by are not those of the model's own forward."""
        begun = 1 if model.config.is_encoder_decoder else len(ids)
        for number, scores in enumerate(written.logits):
            now = written.sequences[:, : begun + number]
            given = {"input_ids": torch.tensor([ids]), "decoder_input_ids": now} if begun == 1 else {"input_ids": now}
            with torch.no_grad():
                own = model(**given, use_cache=False).logits[0, -1]
            gap = float((scores[0] - own).abs().max() / own.abs().max())
            if gap > TOLERANCE:
                why = CAUSES.get(self.name, "")
                return f"its generate's scores are {gap:.0e} off from token {number + 1} on{why and ': ' + why}"
        return "its generate chooses otherwise by the same scores"

    def _greedy(self, model: Any, ids: list[int], count: int) -> list[int]:
        """What the forward that was trained makes likeliest, one token after the other, nothing kept."""
        read, written = torch.tensor([ids]), [2] if model.config.is_encoder_decoder else list(ids)
        begun = len(written)
        with torch.no_grad():
            for _ in range(count):
                now = torch.tensor([written])
                given = {"input_ids": read, "decoder_input_ids": now} if begun == 1 else {"input_ids": now}
                written.append(int(model(**given, use_cache=False).logits[0, -1].argmax()))
        return written[begun:]


def _tokenizer() -> Any:
    words = {"<pad>": 0, "</s>": 1, "<s>": 2, "<mask>": 3, "<unk>": 4}
    words |= {f"w{number}": number for number in range(5, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "eos_token", "bos_token", "mask_token", "unk_token"), words, strict=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def _text(words: list[int]) -> str:
    return " ".join(f"w{word}" for word in words)


def _apart(one: float, other: float) -> float:
    return abs(one - other) / max(abs(other), 1e-12)


def _verdict(apart: dict[str, float]) -> str:
    wrong = [f"{name} by {gap:.1e}" for name, gap in apart.items() if not gap <= TOLERANCE]
    return "DIFFERS: " + ", ".join(wrong) if wrong else "exact"


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    where = "" if isinstance(error, BottegaError) else f" ({traceback.extract_tb(error.__traceback__)[-1].name})"
    return f"{type(error).__name__}: {lines[0][:160]}{where}"


def _refusal(error: Exception) -> str:
    return f"refused: {_short(error)}" if isinstance(error, BottegaError) else f"CRASH {_short(error)}"


def _cells(row: dict[str, Any]) -> str:
    reload = row.get("reload", {})
    same = len(set(reload.values())) == 1
    again = next(iter(reload.values())) if same else "; ".join(f"{way}: {one}" for way, one in reload.items())
    packed = row.get("packed", "") + (f" ({row['why']})" if row.get("why") else "")
    note = "; ".join([*row.get("notes", []), *([row["note"]] if "note" in row else [])])
    cells = [
        row["model"],
        row["kind"],
        row.get("full", ""),
        row.get("lora", ""),
        packed,
        again,
        row.get("writes", ""),
        note,
    ]
    return " | ".join(cell.replace("|", "/") for cell in cells)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a page, those of a kind together."""
    counts = Counter(row["kind"] for row in rows if row.get("full") == "exact")
    said = ", ".join(f"{counts[kind]} {kind}s" for kind in KINDS if counts[kind])
    head = [
        "# Every text model of transformers",
        "",
        f"{date.today()}; transformers {transformers.__version__}, torch {torch.__version__}, peft {peft.__version__};",
        "`make models`. Tiny and random, float32, windows and budgets of 40, rows to 110 tokens, beside a plain loop.",
        f"{len(rows)} rows; exact in full training: {said}.",
        "",
        "| model | kind | full | LoRA | packed or alone | reload | writes | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = list(KINDS)
    rows = sorted(rows, key=lambda row: (order.index(row["kind"]), row["model"]))
    return "\n".join([*head, *(f"| {_cells(row)} |" for row in rows)]) + "\n"


if __name__ == "__main__":
    main()
