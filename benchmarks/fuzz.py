"""A million mutated inputs: each must end in a result or in a BottegaError, and none may take two seconds.

    make fuzz                                 a million in all; run again, it continues
    python benchmarks/fuzz.py --count 5000    fewer
    python benchmarks/fuzz.py --again FILE    repeat one input that failed, with its traceback

An input is decided by the seed, the target and its index, so any slice and any failure can be repeated. Mutated are
valid inputs: recipes, files of every format, rows, CoNLL, conversations with several chat templates, and the JSON files
of model folders.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bottega import objectives
from bottega.auditing.entries import create_entry
from bottega.data.files import BY_SUFFIX, SHEETS, read
from bottega.data.table_files import feature_decoder
from bottega.errors import BottegaError, DataError
from bottega.recipe.schema import Layout, Recipe
from bottega.records import Unusable
from bottega.records.formats import load_formats, record_types
from bottega.records.parser import parse_rows

# Processor seconds from which a call is too slow, and seconds after which it is stopped.
SLOW_SECONDS, TIMEOUT_SECONDS = 2.0, 30

# Fraction of the inputs for each target.
SHARES = {"recipe": 0.06, "files": 0.2, "rows": 0.52, "conll": 0.11, "chat": 0.1, "folder": 0.01}

# Where files can be written in memory, if the system has it.
MEMORY_FOLDER = Path("/dev/shm")

Rng = random.Random

# Texts and values that often cause errors

ODD_TEXT = [
    "", " ", "\n", "\r", "\0", "\ufeff", "\ud800", "\udfff", "\ue000", "\u00a0", "\u2028", "e\u0301", "🙂", "٣", "𝟘",
    "<|im_end|>", "<think>", "{{ x }}", "{% for i in x %}", "</s>", "B-PER", "O", "-1", "1e999", "NaN", "null", "true",
    "[" * 50, "{" * 50, "x" * 3000, "[1, 2", '{"a": 1}', "train[:80%]", "../..", "/dev/null", "~nobody", "0" * 40, "&a",
    "*a", "<<: *a", "!!python/object:os.system", "- - - -", "? ", "|", ">", "%", "\t", ";", '"', "'", "\\", "#",
]  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]],
    [None], [{}], {"": None}, {"a": {"b": [1]}}, b"bytes", [1, "a", None], ["a"] * 300, {"text": ["a"]}, [0, 4, "PER"],
    {"role": "assistant", "content": "x"}, {"from": "gpt", "value": "y"}, {"type": "text", "text": "z"},
]  # fmt: skip
NAMES = sorted(
    {
        name
        for row_format in load_formats().values()
        for names in (*row_format.required, *row_format.alternative)
        for name in names
    }
    | {"system", "history", "tools", "functions", "role", "content", "tool_calls", "weight", "arguments", "name"}
    | {"start", "end", "from", "value", "negatives", "input", "context", "reasoning_content", "chat_template_kwargs"}
)


def mutate_bytes(rng: Rng, data: bytes, others: list[bytes]) -> bytes:
    """The bytes after a few random changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        position = rng.randrange(len(data) + 1)
        size = rng.choice((1, 1, 2, 8, 40))
        odd_text = rng.choice(ODD_TEXT).encode("utf-8", "surrogatepass")
        change = rng.randrange(7)
        if change == 0:
            data = data[:position] + data[position + size :]
        elif change == 1:
            data = data[:position] + odd_text + data[position:]
        elif change == 2:
            data = data[:position] + odd_text + data[position + size :]
        elif change == 3:
            data = data[:position] + bytes(rng.randrange(256) for _ in range(size)) + data[position + size :]
        elif change == 4:
            data = data[:position] + data[position : position + size] * rng.choice((2, 3, 30)) + data[position + size :]
        elif change == 5:
            other = rng.choice(others)
            data = data[:position] + other[rng.randrange(len(other) + 1) :]
        else:
            data = data[:position]
    return data[: 1 << 16]


def mutate(rng: Rng, value: Any) -> Any:
    """A JSON value after a random change somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        change = rng.randrange(8)
        if change == 0:
            return {name: inner for name, inner in value.items() if name != key}
        if change == 1:
            return {(rng.choice(NAMES) if name == key else name): inner for name, inner in value.items()}
        if change == 2:
            return {**value, rng.choice(NAMES): odd_value(rng)}
        return {**value, key: mutate(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        position = rng.randrange(len(value))
        change = rng.randrange(6)
        if change == 0:
            return value[:position] + value[position + 1 :]
        if change == 1:
            return value[:position] + [value[position]] * rng.choice((2, 3)) + value[position + 1 :]
        if change == 2:
            return rng.sample(value, len(value))
        return [*value[:position], mutate(rng, value[position]), *value[position + 1 :]]
    if isinstance(value, str) and rng.random() < 0.7:
        position = rng.randrange(len(value) + 1)
        return value[:position] + rng.choice(ODD_TEXT) + value[position + rng.randrange(3) :]
    return odd_value(rng, value)


def odd_value(rng: Rng, value: Any = "x") -> Any:
    """A value of an unexpected type or depth, sometimes around the given one."""
    choice = rng.randrange(6)
    if choice == 0:
        return [value]
    if choice == 1:
        return {rng.choice(NAMES): value}
    if choice == 2:
        nested = value
        for _ in range(rng.choice((3, 30, 150))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    return rng.choice(ODD_TEXT) if choice == 3 else rng.choice(ODD_VALUES)


# Valid inputs

RECIPES = [
    """model: {base: m}
data: {train: rows.jsonl, validation: 0.1}
objective: {kind: sft}
optim: {lr: 1e-4, steps: 3}
""",
    """name: x
seed: 3
model:
  shape: {model_type: llama, hidden_size: 64}
  tokenizer: t
data:
  train:
  - {path: a.csv, weight: 0.5, delimiter: ';', header: false, columns: [text, label]}
  - b.jsonl
  mapping: {text: utterance}
objective: {kind: causal}
adapter: null
""",
    """model: &m {base: m}
adapter: {kind: lora, rank: 8, targets: [q_proj]}
data: {train: {path: a, split: 'train[:80%]'}, validation: 0.2}
objective: {kind: grpo, rewards: [exact, {kind: length, free: 20, most: 40}], group: 4}
save: {every: 5}
evaluate: {}
""",
    """model: {base: m}
data: {train: [a.jsonl], encoding: latin-1, field: data.rows, text_template: 'Q: {q} A: {a}'}
objective: {kind: classify, weights: {10: 2.0, no: 1}}
guard: {replay: g.txt, share: 0.2}
report: [tensorboard]
""",
]
OVERRIDES = [
    "optim.lr=1e-3", "data.mapping.text=a", "objective.kind=dpo", "data.columns=[a, b]", "name=x", "adapter.rank=4",
]  # fmt: skip

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Warm?"}]},
    {"role": "assistant", "content": None, "reasoning_content": "ask", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "warmth", "arguments": '{"city": "Rome"}'}}]},
    {"role": "tool", "tool_call_id": "1", "name": "warmth", "content": "21"},
    {"role": "assistant", "content": "It is 21.", "weight": 0.5},
]  # fmt: skip
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "warmth", "parameters": PARAMETERS}}]
REJECTED = {"role": "assistant", "content": "b"}
SHAREGPT = [
    {"from": "human", "value": "q"},
    {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
    {"from": "observation", "value": "1"},
    {"from": "gpt", "value": "a"},
]
USER, BOT = MESSAGES[1], MESSAGES[-1]
ROWS: list[dict[str, Any]] = [
    {"messages": MESSAGES, "tools": TOOLS},
    {"conversations": SHAREGPT, "system": "s", "tools": json.dumps(TOOLS)},
    {"prompt": "q", "completion": "a"},
    {"prompt": [USER], "completion": [BOT], "tools": TOOLS},
    {"instruction": "q", "input": "i", "output": "a", "history": [["q", "a"]]},
    {"question": "q", "context": "c", "answers": {"text": ["a"], "answer_start": [0]}},
    {"document": ["one.", "two."], "summary": "s"},
    {"prompt": "q", "chosen": [USER, BOT], "rejected": [USER, REJECTED]},
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    {"input": {"messages": [USER], "tools": TOOLS}, "preferred_output": [BOT], "non_preferred_output": [REJECTED]},
    {"prompt": "q", "completion": "a", "label": True},
    {"text": "Mara ran", "label": 1},
    {"text": "Mara ran", "labels": ["x", 2]},
    {"text": "Mara ran", "spans": [{"start": 0, "end": 4, "label": "PER"}]},
    {"text": "Mara ran", "label": [[0, 4, "PER"]]},
    {"data": {"text": "Mara ran"}, "annotations": [{"result": [{"value": {"start": 0, "end": 4, "labels": ["PER"]}}]}]},
    {"tokens": ["Mara", "ran"], "ner_tags": ["B-PER", "O"]},
    {"anchor": "a", "positive": "b", "negative_1": "c", "negatives": ["d"]},
    {"sentence1": "a", "sentence2": "b", "score": 0.5},
    {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
    {"problem": "q", "solution": "a"},
]  # fmt: skip
FEATURES = {
    "label": {"names": ["a", "b"], "_type": "ClassLabel"},
    "ner_tags": {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "_type": "List"},
    "messages": {"feature": {"content": {"dtype": "string", "_type": "Value"}}, "_type": "List"},
    "tools": {"_type": "Json"},
}
CONLL = [
    "-DOCSTART- -X- O O\n\nMara NNP B-PER\nran VB O\n\nBern NNP S-LOC\n",
    "# id 7 domain=en\nNew\tB-LOC\nYork\tM-LOC\nCity\tE-LOC\n\n10\u00a0000\tO\r\n",
]


def _files() -> dict[str, list[bytes]]:
    """Suffix → the bytes of valid files."""
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    table = 'text,label\n"one, ""two""",a\n"two\nlines",b\nMara,c\n'
    document = json.dumps({"data": ROWS[:3], "version": 1})
    questions = [{"question": "q", "answers": [{"text": "a"}]}]
    squad = json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": questions}]}]})
    texts = {
        ".jsonl": [f"{line}\n{line}\n" for line in lines],
        ".json": [json.dumps(ROWS[:4], indent=1), document, squad, json.dumps({"text": ["a", "b"], "label": [1, 2]})],
        ".csv": [table, table.replace(",", ";"), "prompt,chosen,rejected\nq,a,b\n"],
        ".tsv": [table.replace(",", "\t"), CONLL[1]],
        ".txt": ["A text.\n\nAnother.\n", CONLL[0]],
        ".conll": CONLL,
    }
    files = {suffix: [text.encode() for text in group] for suffix, group in texts.items()}
    for suffix in (".jsonl", ".csv"):
        files[suffix] += [texts[suffix][0].encode("utf-16"), texts[suffix][0].encode("latin-1", "replace")]
    return files


ENCODINGS = ("latin-1", "utf-16", "utf-16-le", "cp1252", "ascii", "idna", "unicode_escape")


def _layout(rng: Rng) -> Layout:
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["encoding"] = rng.choice(ENCODINGS)
    if rng.random() < 0.2:
        options["delimiter"] = rng.choice((";", "|", "tab", "\x01", "é"))
    if rng.random() < 0.2:
        options |= {"columns": rng.sample(NAMES, rng.randrange(1, 4)), "header": rng.choice((None, True, False))}
    if rng.random() < 0.2:
        options["field"] = rng.choice(("data", "data.rows", "a.", ".", "", "text"))
    if rng.random() < 0.2:
        options["reader"] = rng.choice(("text", "jsonl", "json", "csv", "tsv", "conll"))
    return Layout(**options)


@cache
def _record_type_choices() -> list[tuple[type, ...]]:
    """The record types that an audit reads, and those of each objective."""
    return [record_types(), *(objectives.load(kind).reads for kind in objectives.kinds() if kind != "custom")]


def _choose_record_types(rng: Rng) -> tuple[type, ...]:
    return rng.choice(_record_type_choices())


TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "tools": "{% if tools %}[TOOLS]{{ tools | tojson }}[/TOOLS]{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{{ c.function.arguments | tojson }}</call>{% endfor %}"
    "</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "strict": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}] {{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    "tokens": "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
}
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
    "max_position_embeddings": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": [1, 2],
}  # fmt: skip
ADAPTER = {
    "peft_type": "LORA", "base_model_name_or_path": "base", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM", "lora_dropout": 0.0, "bias": "none", "modules_to_save": None,
}  # fmt: skip


def _tokenizer(folder: Path, template: str | None = None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(names + letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )
    tokenizer.add_special_tokens({"additional_special_tokens": names[3:]})
    tokenizer.save_pretrained(str(folder))
    return tokenizer


# Targets: each makes an input and returns the call that tries it


class Targets:
    """The code under test: each method makes a random input and returns a call that processes it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, _files()
        self.codecs: list[Any] = []
        self.base = folder / "base"

    def recipe(self, rng: Rng) -> Callable[[], object]:
        text = rng.choice(RECIPES)
        overrides = rng.sample(OVERRIDES, rng.choice((0, 0, 0, 1, 2)))
        overrides = [mutate_bytes(rng, item.encode(), [b"x"]).decode("utf-8", "replace") for item in overrides]
        if rng.random() < 0.5:
            document = mutate(rng, yaml.safe_load(text))
            return lambda: _read_back(Recipe.parse(document if isinstance(document, dict) else {"data": document}))
        path = self._write("recipe.yaml", mutate_bytes(rng, text.encode(), [recipe.encode() for recipe in RECIPES]))
        return lambda: _read_back(Recipe.load(path, *overrides))

    def file(self, rng: Rng, suffix: str | None = None) -> Callable[[], object]:
        suffix = suffix or rng.choice(list(self.files))
        data = mutate_bytes(rng, rng.choice(self.files[suffix]), self.files[suffix])
        name_suffix = suffix if rng.random() < 0.9 else rng.choice([name for name in BY_SUFFIX if name not in SHEETS])
        path, layout, reads = self._write(f"rows{name_suffix}", data), _layout(rng), _choose_record_types(rng)

        def load() -> object:
            rows = ((f"rows line {line}", fields) for line, fields in read(path, layout))
            return _parse(rows, reads)

        return load

    def rows(self, rng: Rng) -> Callable[[], object]:
        row = rng.choice(ROWS)
        for _ in range(rng.choice((1, 1, 2, 4))):
            row = mutate(rng, row)
        row = row if isinstance(row, dict) else {"text": row}
        features = mutate(rng, FEATURES) if rng.random() < 0.3 else FEATURES
        features = features if isinstance(features, dict) else {}
        decode = feature_decoder(features, encoded=rng.random() < 0.5)
        reads, is_table = _choose_record_types(rng), rng.random() < 0.3

        def build() -> object:
            fields = decode(row) if is_table else row
            return _parse(iter([("rows line 1", fields), ("rows line 2", row)]), reads)

        return build

    def conll(self, rng: Rng) -> Callable[[], object]:
        return self.file(rng, ".conll")

    def chat(self, rng: Rng) -> Callable[[], object]:
        if not self.codecs:
            from bottega.tokenization.codec import Codec

            for name, template in TEMPLATES.items():
                tokenizer = _tokenizer(self.folder / name, template)
                self.codecs += [Codec(tokenizer, max_length=length, too_long="truncate") for length in (64, 512)]
        kind = rng.choice(("sft", "dpo", "kto"))
        row = rng.choice([row for row in ROWS[:11] if "document" not in row])
        for _ in range(rng.choice((1, 1, 2))):
            row = mutate(rng, row)
        row = row if isinstance(row, dict) else {"messages": row}
        codec, objective = rng.choice(self.codecs), objectives.build_objective({"kind": kind})

        def encode() -> object:
            for record in parse_rows([("rows line 1", row)], objective.reads):
                objective.rows(record, codec)
            return None

        return encode

    def model_folder(self, rng: Rng) -> Callable[[], object]:
        from bottega.adapters import read_saved
        from bottega.models.config import load_config
        from bottega.models.source import locate
        from bottega.models.tokenizer import load_tokenizer

        if not self.base.exists():
            _tokenizer(self.base, TEMPLATES["chatml"])
            (self.base / "config.json").write_text(json.dumps(CONFIG))
        valid = {name: json.loads((self.base / name).read_text()) for name in ("config.json", "tokenizer_config.json")}
        valid["adapter_config.json"] = ADAPTER
        name = rng.choice(list(valid))
        folder = self.folder / "model"
        folder.mkdir(exist_ok=True)
        for other in (*valid, "tokenizer.json"):
            content = json.dumps(valid[other]) if other in valid else (self.base / other).read_text()
            (folder / other).write_text(content)
        document = valid[name]
        for _ in range(rng.choice((1, 2))):
            document = mutate(rng, document)
        text = json.dumps(document, default=str).encode("utf-8", "replace")
        (folder / name).write_bytes(text if rng.random() < 0.8 else mutate_bytes(rng, text, [text]))
        if name != "adapter_config.json":
            (folder / "adapter_config.json").unlink()

        def check() -> object:
            from bottega.recipe.schema import Model

            locate(str(folder))
            if name == "adapter_config.json":
                return read_saved(folder)
            tokenizer = load_tokenizer(str(folder))
            return load_config(Model(base=str(folder)), tokenizer)

        return check

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


def _read_back(recipe: Recipe) -> None:
    assert Recipe.parse(recipe.document()).fingerprint() == recipe.fingerprint()


def _parse(rows: Iterator[Any], reads: tuple[type, ...]) -> object:
    for number, record in enumerate(parse_rows(rows, reads, on_bad=_format_error, on_broken=_format_error)):
        create_entry(number, record)
    return None


def _format_error(error: DataError) -> None:
    str(error)


def by_name(targets: Targets) -> dict[str, Callable[[Rng], Callable[[], object]]]:
    return {
        "recipe": targets.recipe,
        "files": targets.file,
        "rows": targets.rows,
        "conll": targets.conll,
        "chat": targets.chat,
        "folder": targets.model_folder,
    }


# Runs


class Hang(BaseException):
    """A call exceeded its time limit. Not an Exception, so that the code under test does not catch it."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Hang

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def try_call(call: Callable[[], object]) -> tuple[str, str]:
    """(outcome of a call: result, refused, long (its message), slow, hung or failed; its traceback)."""
    before = time.process_time()
    try:
        with time_limit(TIMEOUT_SECONDS):
            call()
        outcome = "result"
    except (BottegaError, Unusable) as error:
        outcome = "refused" if len(str(error)) < 4000 else "long"
    except Hang:
        return "hung", traceback.format_exc()
    except Exception:
        return "failed", traceback.format_exc()
    spent = time.process_time() - before
    return ("slow", f"{spent:.1f} s") if spent > SLOW_SECONDS else (outcome, "")


def run(count: int, out: Path, seed: int = 0, seconds: float | None = None, only: str | None = None) -> Counter[str]:
    """Try inputs up to `count` in all, including earlier calls; each failure is written to a file in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    state = out / f"progress-{seed}.json"
    done: dict[str, dict[str, int]] = json.loads(state.read_text()) if state.exists() else {}
    started, total = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory(dir=MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None) as folder:
        makers = by_name(Targets(Path(folder)))
        unfinished = [name for name in makers if only in (None, name)]
        while unfinished and (seconds is None or time.monotonic() - started < seconds):
            for name in list(unfinished):
                counts = Counter(done.get(name, {}))
                first, last = sum(counts.values()), round(count * SHARES[name])
                for index in range(first, min(first + max(1, round(2000 * SHARES[name])), last)):
                    outcome, trace = try_call(makers[name](Rng(f"{seed} {name} {index}")))
                    counts[outcome] += 1
                    if outcome not in ("result", "refused"):
                        (out / f"{outcome}-{name}-{seed}-{index}.txt").write_text(trace or outcome)
                done[name] = dict(counts)
                if sum(counts.values()) >= last:
                    unfinished.remove(name)
            state.write_text(json.dumps(done, indent=1))
    for counts_by_outcome in done.values():
        total.update(counts_by_outcome)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--only", choices=list(SHARES))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "bottega-fuzz")
    parser.add_argument("--again", metavar="FILE", type=Path, help="the file of an input that failed")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.simplefilter("ignore")
    if options.again is not None:
        _, name, seed, index = options.again.stem.split("-")
        with tempfile.TemporaryDirectory() as folder:
            by_name(Targets(Path(folder)))[name](Rng(f"{seed} {name} {index}"))()
        return
    total = run(options.count, options.out, options.seed, options.seconds, options.only)
    print(json.dumps(json.loads((options.out / f"progress-{options.seed}.json").read_text()), indent=1))
    print(f"{sum(total.values())} inputs: {dict(total)}; failures are in {options.out}")
    sys.exit(any(total[bad] for bad in ("failed", "hung", "slow", "long")))


if __name__ == "__main__":
    main()
