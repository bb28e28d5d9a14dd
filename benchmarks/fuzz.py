"""A million mutated inputs: each must end in a result or in one of our own errors, and none may take two seconds.

    make fuzz                                 a million in all; run again, it goes on where it was
    python benchmarks/fuzz.py --count 5000    fewer
    python benchmarks/fuzz.py --again FILE    one input that failed, with its traceback

An input is decided by the seed, the target and its number, so a slice can be run anywhere and any failure again. What
is mutated are sound inputs: recipes, files of every kind, rows, CoNLL, conversations under several chat templates, and
the JSON files of model folders.
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

# Seconds of the processor that are too many, and seconds after which a call is cut off.
SLOW, HANGS = 2.0, 30

# How many of the inputs go to each target.
SHARES = {"recipe": 0.06, "files": 0.2, "rows": 0.52, "conll": 0.11, "chat": 0.1, "folder": 0.01}

# Where files are written faster than to a disk.
MEMORY = Path("/dev/shm")

Draw = random.Random

# What goes wrong easily

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
    {name for form in load_formats().values() for need in (*form.required, *form.alternative) for name in need}
    | {"system", "history", "tools", "functions", "role", "content", "tool_calls", "weight", "arguments", "name"}
    | {"start", "end", "from", "value", "negatives", "input", "context", "reasoning_content", "chat_template_kwargs"}
)


def mutated_bytes(draw: Draw, data: bytes, others: list[bytes]) -> bytes:
    """The bytes after a few changes."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(len(data) + 1)
        size = draw.choice((1, 1, 2, 8, 40))
        odd = draw.choice(ODD_TEXT).encode("utf-8", "surrogatepass")
        kind = draw.randrange(7)
        if kind == 0:
            data = data[:place] + data[place + size :]
        elif kind == 1:
            data = data[:place] + odd + data[place:]
        elif kind == 2:
            data = data[:place] + odd + data[place + size :]
        elif kind == 3:
            data = data[:place] + bytes(draw.randrange(256) for _ in range(size)) + data[place + size :]
        elif kind == 4:
            data = data[:place] + data[place : place + size] * draw.choice((2, 3, 30)) + data[place + size :]
        elif kind == 5:
            other = draw.choice(others)
            data = data[:place] + other[draw.randrange(len(other) + 1) :]
        else:
            data = data[:place]
    return data[: 1 << 16]


def mutated(draw: Draw, value: Any) -> Any:
    """A value like JSON's after a change somewhere in it."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        kind = draw.randrange(8)
        if kind == 0:
            return {name: inner for name, inner in value.items() if name != key}
        if kind == 1:
            return {(draw.choice(NAMES) if name == key else name): inner for name, inner in value.items()}
        if kind == 2:
            return {**value, draw.choice(NAMES): odd(draw)}
        return {**value, key: mutated(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        kind = draw.randrange(6)
        if kind == 0:
            return value[:place] + value[place + 1 :]
        if kind == 1:
            return value[:place] + [value[place]] * draw.choice((2, 3)) + value[place + 1 :]
        if kind == 2:
            return draw.sample(value, len(value))
        return [*value[:place], mutated(draw, value[place]), *value[place + 1 :]]
    if isinstance(value, str) and draw.random() < 0.7:
        place = draw.randrange(len(value) + 1)
        return value[:place] + draw.choice(ODD_TEXT) + value[place + draw.randrange(3) :]
    return odd(draw, value)


def odd(draw: Draw, value: Any = "x") -> Any:
    kind = draw.randrange(6)
    if kind == 0:
        return [value]
    if kind == 1:
        return {draw.choice(NAMES): value}
    if kind == 2:
        deep = value
        for _ in range(draw.choice((3, 30, 150))):
            deep = [deep] if draw.random() < 0.5 else {"a": deep}
        return deep
    return draw.choice(ODD_TEXT) if kind == 3 else draw.choice(ODD_VALUES)


# Sound inputs

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
CHANGES = [
    "optim.lr=1e-3", "data.mapping.text=a", "objective.kind=dpo", "data.columns=[a, b]", "name=x", "adapter.rank=4",
]  # fmt: skip

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Warm?"}]},
    {"role": "assistant", "content": None, "reasoning_content": "ask", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "warmth", "arguments": '{"city": "Rome"}'}}]},
    {"role": "tool", "tool_call_id": "1", "name": "warmth", "content": "21"},
    {"role": "assistant", "content": "It is 21.", "weight": 0.5},
]  # fmt: skip
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "warmth", "parameters": PARAMETERS}}]
WORSE = {"role": "assistant", "content": "b"}
SHAREGPT = [
    {"from": "human", "value": "q"},
    {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
    {"from": "observation", "value": "1"},
    {"from": "gpt", "value": "a"},
]
USER, BOT = TALK[1], TALK[-1]
ROWS: list[dict[str, Any]] = [
    {"messages": TALK, "tools": TOOLS},
    {"conversations": SHAREGPT, "system": "s", "tools": json.dumps(TOOLS)},
    {"prompt": "q", "completion": "a"},
    {"prompt": [USER], "completion": [BOT], "tools": TOOLS},
    {"instruction": "q", "input": "i", "output": "a", "history": [["q", "a"]]},
    {"question": "q", "context": "c", "answers": {"text": ["a"], "answer_start": [0]}},
    {"document": ["one.", "two."], "summary": "s"},
    {"prompt": "q", "chosen": [USER, BOT], "rejected": [USER, WORSE]},
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    {"input": {"messages": [USER], "tools": TOOLS}, "preferred_output": [BOT], "non_preferred_output": [WORSE]},
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
    """Sound files, by suffix."""
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    table = 'text,label\n"one, ""two""",a\n"two\nlines",b\nMara,c\n'
    whole = json.dumps({"data": ROWS[:3], "version": 1})
    questions = [{"question": "q", "answers": [{"text": "a"}]}]
    squad = json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": questions}]}]})
    made = {
        ".jsonl": [f"{line}\n{line}\n" for line in lines],
        ".json": [json.dumps(ROWS[:4], indent=1), whole, squad, json.dumps({"text": ["a", "b"], "label": [1, 2]})],
        ".csv": [table, table.replace(",", ";"), "prompt,chosen,rejected\nq,a,b\n"],
        ".tsv": [table.replace(",", "\t"), CONLL[1]],
        ".txt": ["A text.\n\nAnother.\n", CONLL[0]],
        ".conll": CONLL,
    }
    found = {suffix: [text.encode() for text in texts] for suffix, texts in made.items()}
    for suffix in (".jsonl", ".csv"):
        found[suffix] += [made[suffix][0].encode("utf-16"), made[suffix][0].encode("latin-1", "replace")]
    return found


ENCODINGS = ("latin-1", "utf-16", "utf-16-le", "cp1252", "ascii", "idna", "unicode_escape")


def _layout(draw: Draw) -> Layout:
    options: dict[str, Any] = {}
    if draw.random() < 0.3:
        options["encoding"] = draw.choice(ENCODINGS)
    if draw.random() < 0.2:
        options["delimiter"] = draw.choice((";", "|", "tab", "\x01", "é"))
    if draw.random() < 0.2:
        options |= {"columns": draw.sample(NAMES, draw.randrange(1, 4)), "header": draw.choice((None, True, False))}
    if draw.random() < 0.2:
        options["field"] = draw.choice(("data", "data.rows", "a.", ".", "", "text"))
    if draw.random() < 0.2:
        options["reader"] = draw.choice(("text", "jsonl", "json", "csv", "tsv", "conll"))
    return Layout(**options)


@cache
def _all_reads() -> list[tuple[type, ...]]:
    """What each objective reads, and an audit."""
    return [record_types(), *(objectives.load(kind).reads for kind in objectives.kinds() if kind != "custom")]


def _reads(draw: Draw) -> tuple[type, ...]:
    return draw.choice(_all_reads())


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
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )
    made.add_special_tokens({"additional_special_tokens": names[3:]})
    made.save_pretrained(str(folder))
    return made


# Targets: each makes an input, and tries it


class Targets:
    """What is tried, by name: (the input of a number, what is done with it)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, _files()
        self.codecs: list[Any] = []
        self.base = folder / "base"

    def recipe(self, draw: Draw) -> Callable[[], object]:
        text = draw.choice(RECIPES)
        changes = draw.sample(CHANGES, draw.choice((0, 0, 0, 1, 2)))
        changes = [mutated_bytes(draw, one.encode(), [b"x"]).decode("utf-8", "replace") for one in changes]
        if draw.random() < 0.5:
            document = mutated(draw, yaml.safe_load(text))
            return lambda: _read_back(Recipe.parse(document if isinstance(document, dict) else {"data": document}))
        path = self._written("recipe.yaml", mutated_bytes(draw, text.encode(), [one.encode() for one in RECIPES]))
        return lambda: _read_back(Recipe.load(path, *changes))

    def file(self, draw: Draw, suffix: str | None = None) -> Callable[[], object]:
        suffix = suffix or draw.choice(list(self.files))
        data = mutated_bytes(draw, draw.choice(self.files[suffix]), self.files[suffix])
        named = suffix if draw.random() < 0.9 else draw.choice([name for name in BY_SUFFIX if name not in SHEETS])
        path, layout, reads = self._written(f"rows{named}", data), _layout(draw), _reads(draw)

        def load() -> object:
            rows = ((f"rows line {line}", fields) for line, fields in read(path, layout))
            return _made(rows, reads)

        return load

    def rows(self, draw: Draw) -> Callable[[], object]:
        row = draw.choice(ROWS)
        for _ in range(draw.choice((1, 1, 2, 4))):
            row = mutated(draw, row)
        row = row if isinstance(row, dict) else {"text": row}
        features = mutated(draw, FEATURES) if draw.random() < 0.3 else FEATURES
        features = features if isinstance(features, dict) else {}
        declared = feature_decoder(features, encoded=draw.random() < 0.5)
        reads, table = _reads(draw), draw.random() < 0.3

        def build() -> object:
            fields = declared(row) if table else row
            return _made(iter([("rows line 1", fields), ("rows line 2", row)]), reads)

        return build

    def conll(self, draw: Draw) -> Callable[[], object]:
        return self.file(draw, ".conll")

    def chat(self, draw: Draw) -> Callable[[], object]:
        if not self.codecs:
            from bottega.tokenization.codec import Codec

            for name, template in TEMPLATES.items():
                tokenizer = _tokenizer(self.folder / name, template)
                self.codecs += [Codec(tokenizer, max_length=length, too_long="truncate") for length in (64, 512)]
        kind = draw.choice(("sft", "dpo", "kto"))
        row = draw.choice([row for row in ROWS[:11] if "document" not in row])
        for _ in range(draw.choice((1, 1, 2))):
            row = mutated(draw, row)
        row = row if isinstance(row, dict) else {"messages": row}
        codec, objective = draw.choice(self.codecs), objectives.build_objective({"kind": kind})

        def encode() -> object:
            for record in parse_rows([("rows line 1", row)], objective.reads):
                objective.rows(record, codec)
            return None

        return encode

    def folder_of_a_model(self, draw: Draw) -> Callable[[], object]:
        from bottega.models.config import load_config
        from bottega.models.source import adapter_base, locate
        from bottega.models.tokenizer import load_tokenizer

        if not self.base.exists():
            _tokenizer(self.base, TEMPLATES["chatml"])
            (self.base / "config.json").write_text(json.dumps(CONFIG))
        sound = {name: json.loads((self.base / name).read_text()) for name in ("config.json", "tokenizer_config.json")}
        sound["adapter_config.json"] = ADAPTER
        name = draw.choice(list(sound))
        folder = self.folder / "model"
        folder.mkdir(exist_ok=True)
        for other in (*sound, "tokenizer.json"):
            kept = json.dumps(sound[other]) if other in sound else (self.base / other).read_text()
            (folder / other).write_text(kept)
        changed = sound[name]
        for _ in range(draw.choice((1, 2))):
            changed = mutated(draw, changed)
        text = json.dumps(changed, default=str).encode("utf-8", "replace")
        (folder / name).write_bytes(text if draw.random() < 0.8 else mutated_bytes(draw, text, [text]))
        if name != "adapter_config.json":
            (folder / "adapter_config.json").unlink()

        def check() -> object:
            from bottega.recipe.schema import Model

            locate(str(folder))
            if name == "adapter_config.json":
                return adapter_base(folder)
            tokenizer = load_tokenizer(str(folder))
            return load_config(Model(base=str(folder)), tokenizer)

        return check

    def _written(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


def _read_back(recipe: Recipe) -> None:
    assert Recipe.parse(recipe.document()).fingerprint() == recipe.fingerprint()


def _made(rows: Iterator[Any], reads: tuple[type, ...]) -> object:
    for number, record in enumerate(parse_rows(rows, reads, on_bad=_nothing, on_broken=_nothing)):
        create_entry(number, record)
    return None


def _nothing(error: DataError) -> None:
    str(error)


def by_name(targets: Targets) -> dict[str, Callable[[Draw], Callable[[], object]]]:
    return {
        "recipe": targets.recipe,
        "files": targets.file,
        "rows": targets.rows,
        "conll": targets.conll,
        "chat": targets.chat,
        "folder": targets.folder_of_a_model,
    }


# Runs


class Hang(BaseException):
    """A call that did not end; no Exception, so that nobody catches it."""


@contextmanager
def cut_off(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(call: Callable[[], object]) -> tuple[str, str]:
    """(what became of a call: result, refused, slow, hung or failed; and its traceback)."""
    before = time.process_time()
    try:
        with cut_off(HANGS):
            call()
        outcome = "result"
    except (BottegaError, Unusable) as error:
        outcome = "refused" if len(str(error)) < 4000 else "long"
    except Hang:
        return "hung", traceback.format_exc()
    except Exception:
        return "failed", traceback.format_exc()
    spent = time.process_time() - before
    return ("slow", f"{spent:.1f} s") if spent > SLOW else (outcome, "")


def run(count: int, out: Path, seed: int = 0, seconds: float | None = None, only: str | None = None) -> Counter[str]:
    """Try inputs, `count` in all with those of before; what failed is written to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    state = out / f"progress-{seed}.json"
    done: dict[str, dict[str, int]] = json.loads(state.read_text()) if state.exists() else {}
    began, total = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        makers = by_name(Targets(Path(folder)))
        waiting = [name for name in makers if only in (None, name)]
        while waiting and (seconds is None or time.monotonic() - began < seconds):
            for name in list(waiting):
                counts = Counter(done.get(name, {}))
                first, last = sum(counts.values()), round(count * SHARES[name])
                for number in range(first, min(first + max(1, round(2000 * SHARES[name])), last)):
                    outcome, trace = tried(makers[name](Draw(f"{seed} {name} {number}")))
                    counts[outcome] += 1
                    if outcome not in ("result", "refused"):
                        (out / f"{outcome}-{name}-{seed}-{number}.txt").write_text(trace or outcome)
                done[name] = dict(counts)
                if sum(counts.values()) >= last:
                    waiting.remove(name)
            state.write_text(json.dumps(done, indent=1))
    for counted in done.values():
        total.update(counted)
    return total


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    asked.add_argument("--count", type=int, default=1_000_000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--seconds", type=float)
    asked.add_argument("--only", choices=list(SHARES))
    asked.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "bottega-fuzz")
    asked.add_argument("--again", metavar="FILE", type=Path, help="the file of an input that failed")
    given = asked.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.simplefilter("ignore")
    if given.again is not None:
        _, name, seed, number = given.again.stem.split("-")
        with tempfile.TemporaryDirectory() as folder:
            by_name(Targets(Path(folder)))[name](Draw(f"{seed} {name} {number}"))()
        return
    total = run(given.count, given.out, given.seed, given.seconds, given.only)
    print(json.dumps(json.loads((given.out / f"progress-{given.seed}.json").read_text()), indent=1))
    print(f"{sum(total.values())} inputs: {dict(total)}; what failed is in {given.out}")
    sys.exit(any(total[bad] for bad in ("failed", "hung", "slow", "long")))


if __name__ == "__main__":
    main()
