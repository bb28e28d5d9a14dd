"""The studio, used as a person uses it: in Chromium, from the first visit to DPO on labels of one's own.

    python benchmarks/studio.py [--only flow keyboard hostile restart …] [--axe axe.min.js]
                                [--pictures FOLDER] [--out FILE]

Needs Chromium at /usr/bin/chromium and the package playwright. Every request is listed, and none may leave the machine;
no message of an error may be in the console. With `--axe` (the npm package axe-core), every screen is searched for
faults of accessibility. With `--pictures`, every screen is kept, light and dark.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from machine import write_result
from playwright.sync_api import BrowserContext, Page, Response, expect, sync_playwright
from workloads import make_model

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]

# Milliseconds that a step may take: a small model is trained in some.
PATIENCE = 600_000

# What is explained.
TEXT = "Which%20topic?%20There%20was%20no%20bill"

# What a browser says of a server that is gone.
GONE = ("ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET", "Failed to load resource")

# What axe-core calls serious.
GRAVE = ("serious", "critical")


@dataclass
class Watch:
    """What a browser asked for and complained of, and what was found on the way."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)

    def note(self, what: str, found: str) -> None:
        self.facts.append((what, found))
        print(f"{what}: {found}", flush=True)

    def check(self, expected: tuple[str, ...] = ()) -> None:
        """Nothing left the machine, and nobody complained, but for what was expected."""
        elsewhere = [url for url in self.requests if not re.match(r"(http://127\.0\.0\.1[:/]|blob:|data:)", url)]
        assert not elsewhere, elsewhere
        complaints = [text for text in self.complaints if not any(part in text for part in expected)]
        assert not complaints, complaints


@dataclass
class Server:
    """A studio in a process of its own."""

    folder: Path
    process: subprocess.Popen[str] | None = None
    address: str = ""

    def start(self) -> None:
        command = [sys.executable, "-m", "bottega", "studio", "--port", "0", "--no-browser"]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://\S+/studio/", line):
                self.address = found[0]
                return
        raise AssertionError("the studio did not start")

    def busy(self, seconds: float) -> float:
        """The part of a core that it takes, of some seconds."""
        assert self.process is not None
        before, start = cpu_seconds(self.process.pid), time.perf_counter()
        time.sleep(seconds)
        return (cpu_seconds(self.process.pid) - before) / (time.perf_counter() - start)

    def stop(self) -> float:
        """Seconds from Ctrl-C to its end."""
        assert self.process is not None
        start = time.perf_counter()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        return time.perf_counter() - start


@contextmanager
def studio() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name))
        server.start()
        try:
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                server.stop()
            stop_tasks(Path(name))


def stop_tasks(folder: Path) -> None:
    """End what goes on without its server."""
    for task in (folder / "bottega-server" / "studio" / "tasks").glob("task-*"):
        (task / "stop").touch()
    deadline = time.monotonic() + 60
    while (
        time.monotonic() < deadline
        and subprocess.run(["pgrep", "-f", f"bottega.studio.worker {folder}"], capture_output=True).stdout
    ):
        time.sleep(0.2)


@contextmanager
def browser(watch: Watch, *, bypass: bool = False) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": 1280, "height": 900},
            locale="en-US",
            bypass_csp=bypass,
        )
        context.set_default_timeout(30_000)
        context.on("page", watch.follow)
        watch.follow(context.pages[0])
        yield context
        context.close()


def visit(page: Page, address: str, path: str) -> None:
    """Open a page of the studio, also when it is open already."""
    page.goto("about:blank")
    page.goto(f"{address}#/{path}")
    page.wait_for_selector("html[data-ready=yes]")


# As a person: from the first visit to DPO


def use_everything(watch: Watch, pictures: Path | None, axe: Path | None) -> None:
    with studio() as server:
        screens = act(watch, server, pictures)
        if axe is not None:
            search_faults(watch, server, screens, axe)
        watch.note("from Ctrl-C to the end of the server", f"{server.stop():.1f} s")


def act(watch: Watch, server: Server, pictures: Path | None) -> dict[str, str]:
    """Everything, in one browser; the addresses of all screens."""
    with browser(watch) as context:
        page = context.pages[0]
        first_visit(watch, page, server)
        page.click("text=Start with the demo")
        expect(page.locator("h1")).to_contain_text("Demo", timeout=20_000)
        page.wait_for_selector("text=See it", timeout=PATIENCE)
        audit(page, server)
        tuned = train(page, server, "demo-tasks", "lora")
        watch.note("a run with LoRA on the demo's data", tuned)
        verdict(watch, page, tuned)
        chat(page, server, tuned)
        label(page, server, tuned)
        aligned = start_run(page)
        wait_for_run(page, server, aligned)
        watch.note("a run with DPO on twenty labels", aligned)
        explain(watch, page, server, tuned)
        tokenizer_and_embeddings(page, server, tuned)
        watch.check()
        screens = all_screens(tuned)
        small_screen(watch, page, server, screens)
        if pictures is not None:
            take_pictures(page, server, screens, pictures)
        watch.note("requests, all to this machine", f"{len(watch.requests):,}")
        return screens


def first_visit(watch: Watch, page: Page, server: Server) -> None:
    sizes: list[int] = []

    def count(answer: Response) -> None:
        if answer.status == 200:
            sizes.append(len(answer.body()))

    page.on("response", count)
    start = time.perf_counter()
    page.goto(server.address)
    page.wait_for_selector("html[data-ready=yes]")
    seconds = time.perf_counter() - start
    page.wait_for_timeout(200)
    page.remove_listener("response", count)
    watch.note("first page", f"usable after {seconds:.2f} s, {sum(sizes) / 1000:.0f} KB in {len(sizes)} answers")
    assert seconds <= 1.5
    assert sum(sizes) <= 100_000


def audit(page: Page, server: Server) -> None:
    visit(page, server.address, "data/demo-tasks")
    page.click("role=tab[name='Columns']")
    page.get_by_label("The rows are").select_option("instruction")
    page.click("text=Keep")
    page.wait_for_selector("text=from now on the rows are read like this")
    page.click("role=tab[name='Check']")
    page.click("text=Check the rows")
    page.wait_for_selector("text=rows were read", timeout=PATIENCE)
    if page.locator("text=Write a new version").count():
        page.click("text=Write a new version")
        page.wait_for_selector("p:has-text('version 2')", timeout=PATIENCE)


def train(page: Page, server: Server, data: str, method: str) -> str:
    """Start a run in the form, and wait for its end."""
    visit(page, server.address, f"new?data={data}&method={method}")
    page.wait_for_selector("text=It fits into the memory", timeout=PATIENCE)
    page.get_by_label("epochs").fill("1")
    page.get_by_label("lr", exact=True).fill("0.002")
    page.wait_for_timeout(1500)
    page.click("role=tab[name='YAML']")
    text = page.input_value("textarea")
    assert re.search(r"epochs: 1(.0)?\n", text), text
    run = start_run(page)
    wait_for_run(page, server, run)
    return run


def start_run(page: Page) -> str:
    """Press the button, once it can be; the name of the run."""
    page.wait_for_selector("text=Start training", timeout=PATIENCE)
    page.click("text=Start training")
    page.wait_for_url("**/#/runs/*", timeout=PATIENCE)
    return page.url.rsplit("/", 1)[1]


def wait_for_run(page: Page, server: Server, run: str) -> None:
    """Watch it: the curve grows, and a reload loses nothing."""
    page.wait_for_selector(".js-plotly-plot", timeout=PATIENCE)
    page.reload()
    page.wait_for_selector(".js-plotly-plot", timeout=PATIENCE)
    page.wait_for_selector("h1 .badge.finished", timeout=PATIENCE)


def verdict(watch: Watch, page: Page, run: str) -> None:
    page.click("role=tab[name='Verdict']")
    page.click("button:has-text('Evaluate')")
    page.wait_for_selector("p.verdict", timeout=PATIENCE)
    watch.note("its verdict", page.inner_text("p.verdict >> nth=0"))


def chat(page: Page, server: Server, tuned: str) -> None:
    visit(page, server.address, f"chat?model={tuned}&beside=demo-base-1")
    page.check("text=Blind")
    page.get_by_label("Message").fill("Which topic? Hi, there was no bill in the box with the scarf, order #E782.")
    page.click("text=Send")
    page.wait_for_selector("text=Which is better?", timeout=PATIENCE)
    assert page.locator(".sides .answer .scored").count() > 2
    page.click("text=Left is better")
    page.wait_for_selector("text=Left was")


def label(page: Page, server: Server, tuned: str) -> None:
    visit(page, server.address, "label")
    page.get_by_label("Model", exact=True).fill(tuned)
    page.get_by_label("Name").fill("mine")
    page.get_by_label("Pairs").fill("30")
    page.get_by_label("Temperature").fill("1.5")
    page.click("text=Write the answers")
    page.wait_for_selector(".sides", timeout=PATIENCE)
    for number in range(20):
        page.wait_for_selector(f"text=/^{number} of /")
        page.keyboard.press(("ArrowLeft", "ArrowRight", "ArrowLeft", "ArrowDown")[number % 4])
    page.wait_for_selector("text=/^20 of /")
    page.keyboard.press("u")
    page.wait_for_selector("text=/^19 of /")
    page.click("text=Start DPO")
    page.wait_for_selector("text=It fits into the memory", timeout=PATIENCE)


def explain(watch: Watch, page: Page, server: Server, tuned: str) -> None:
    visit(page, server.address, f"explain?model={tuned}&beside=demo-base-1&text={TEXT}")
    page.wait_for_selector("text=Logit lens", timeout=PATIENCE)
    page.locator("button.thumb").nth(3).click()
    expect(page.locator("h3:has-text('Layer 1, head 4')")).to_be_visible()
    page.locator(".explain canvas.pixels").nth(1).hover()
    page.click("button:has-text('Draw a token')")
    page.wait_for_selector("text=Written so far", timeout=PATIENCE)
    with page.expect_download() as download:
        page.click("text=Save as a page")
    watch.note("an explanation as a page of its own", f"{download.value.path().stat().st_size / 1e6:.2f} MB")


def tokenizer_and_embeddings(page: Page, server: Server, tuned: str) -> None:
    visit(page, server.address, f"tokenizer?model={tuned}&beside=demo-base-1")
    page.wait_for_selector(".piece", timeout=PATIENCE)
    page.get_by_label("Tokens that contain").fill("order")
    page.wait_for_selector("text=/^\\d+ tokens$/")
    visit(page, server.address, f"embeddings?model={tuned}")
    page.get_by_label("Word a").fill("scarf")
    page.click("text=Find")
    page.wait_for_selector("table", timeout=PATIENCE)
    page.click("role=tab[name='Map']")
    page.wait_for_selector("text=of the variance", timeout=PATIENCE)
    page.select_option("select >> nth=-1", "2")
    page.wait_for_timeout(500)
    page.click("role=tab[name='What tuning moved']")
    page.get_by_label("Beside").fill("demo-base-1")
    page.click("text=Compare")
    page.wait_for_selector("text=All embeddings are the same", timeout=PATIENCE)


def all_screens(tuned: str) -> dict[str, str]:
    """Name → address of every screen."""
    return {
        "home": "",
        "data": "data",
        "rows": "data/demo-tasks",
        "columns": "data/demo-tasks/columns",
        "audit": "data/demo-tasks/audit?v=1",
        "tokens": "data/demo-tasks/tokens",
        "new": "new?data=demo-tasks",
        "runs": "runs",
        "run": f"runs/{tuned}?with=demo-base-1",
        "verdict": f"runs/{tuned}/verdict",
        "chat": f"chat?model={tuned}&beside=demo-base-1",
        "label": "label/mine",
        "explain": f"explain?model={tuned}&beside=demo-base-1&text={TEXT}",
        "tokenizer": f"tokenizer?model={tuned}",
        "embeddings": f"embeddings/map?model={tuned}",
    }


def settle(page: Page) -> None:
    page.wait_for_timeout(2500)


def small_screen(watch: Watch, page: Page, server: Server, screens: dict[str, str]) -> None:
    """At 360 pixels nothing sticks out of the page."""
    page.set_viewport_size({"width": 360, "height": 740})
    for name, path in screens.items():
        visit(page, server.address, path)
        settle(page)
        width = page.evaluate("document.scrollingElement.scrollWidth")
        assert width <= 360, f"{name} is {width} pixels wide"
    page.set_viewport_size({"width": 1280, "height": 900})
    watch.note("at 360 pixels", f"all {len(screens)} screens fit")


def take_pictures(page: Page, server: Server, screens: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        for name, path in screens.items():
            visit(page, server.address, path)
            settle(page)
            page.screenshot(path=folder / f"{name}-{theme}.jpg", type="jpeg", quality=60, scale="css")


def search_faults(watch: Watch, server: Server, screens: dict[str, str], axe: Path) -> None:
    """No serious fault of accessibility on any screen, light or dark."""
    aside, found = Watch(), []
    # In a browser without the policy, which would not let the script in.
    with browser(aside, bypass=True) as context:
        page = context.pages[0]
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            for name, path in screens.items():
                visit(page, server.address, path)
                settle(page)
                page.add_script_tag(path=axe)
                result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                for fault in result["violations"]:
                    if fault["impact"] in GRAVE:
                        where = "; ".join(str(node["target"]) for node in fault["nodes"][:3])
                        found.append(f"{name} ({theme}): {fault['id']} at {where}")
    assert not found, "\n".join(found)
    watch.note("axe-core", f"no serious fault on {len(screens)} screens, light and dark")


# What goes wrong


HOSTILE = [
    {"instruction": "<script>window.hacked = 1</script>", "output": "<img src=x onerror='window.hacked = 1'>"},
    {"instruction": "\u202eright to left \u05d0\u05d1\u05d2 \u0627\u0644\u0633\u0644\u0627\u0645", "output": "ok"},
    {"instruction": "x" * 100_000, "output": "a long row"},
    {"instruction": "=cmd()", "output": "{{ 7 * 7 }} ${7*7}"},
]


def hostile_data(watch: Watch) -> None:
    with studio() as server, browser(watch) as context:
        page = context.pages[0]
        path = server.folder / "<b>rows & 'more'.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in HOSTILE * 5), encoding="utf-8")
        visit(page, server.address, "data")
        page.set_input_files("input[type=file]", path)
        page.wait_for_selector("td.number >> text=20", timeout=PATIENCE)
        assert page.locator("td >> text=<script>").count() == 5
        page.locator("text=all of it").first.click()
        page.click("role=tab[name='Check']")
        page.click("text=Check the rows")
        page.wait_for_selector("text=rows were read", timeout=PATIENCE)
        visit(page, server.address, "")
        page.wait_for_selector(".card")
        assert page.evaluate("window.hacked === undefined")
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        watch.check()
        watch.note("hostile rows", "shown as text on every screen; nothing of them ran")


def restart(watch: Watch) -> None:
    """The server is restarted in the middle of a run: the page goes on where it was."""
    with studio() as server, browser(watch) as context:
        page = context.pages[0]
        visit(page, server.address, "")
        page.click("text=Start with the demo")
        page.wait_for_selector("progress[max]", timeout=PATIENCE)
        visit(page, server.address, "runs/demo-base-1")
        page.wait_for_selector(".js-plotly-plot", timeout=PATIENCE)
        before = step_of(page)
        seconds = server.stop()
        page.wait_for_selector("#status:has-text('No connection')", timeout=20_000)
        time.sleep(3)
        server.start()
        visit(page, server.address, "runs/demo-base-1")
        page.wait_for_selector(".js-plotly-plot", timeout=PATIENCE)
        after = step_of(page)
        assert after > before
        page.click("text=Pause")
        page.wait_for_selector("h1 .badge.stopped", timeout=PATIENCE)
        page.click("text=Go on")
        page.wait_for_selector("h1 .badge.running", timeout=PATIENCE)
        watch.check(GONE)
        watch.note(
            "a restart in the middle of a run", f"update {before} before, {after} after; Ctrl-C took {seconds:.1f} s"
        )


# The element with the focus: what it is called, and whether one can see that it has it.
FOCUSED = """() => {
    const one = document.activeElement, style = getComputedStyle(one);
    const name = one.getAttribute("aria-label") ?? one.labels?.[0]?.textContent ?? one.textContent;
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return [name.trim(), one === document.body || outlined];
}"""

# Controls of the longest page.
MOST_TABS = 150


def keyboard(watch: Watch) -> None:
    """From the first visit to a verdict, a check, a conversation and labels, without a mouse."""
    with studio() as server, browser(watch) as context:
        page, pressed = context.pages[0], 0

        def reach(name: str) -> None:
            """Press Tab until a control has the focus, which is to be seen at every one."""
            nonlocal pressed
            for _ in range(MOST_TABS):
                page.keyboard.press("Tab")
                pressed += 1
                found, visible = page.evaluate(FOCUSED)
                assert visible, f"the focus on {found!r} is not to be seen"
                if found.startswith(name):
                    return
            raise AssertionError(f"{name} is not reached by Tab")

        def press(name: str, key: str = "Enter") -> None:
            reach(name)
            page.keyboard.press(key)

        visit(page, server.address, "")
        press("Start with the demo")
        page.wait_for_selector("text=See it", timeout=PATIENCE)
        press("See it")
        page.wait_for_selector("text=It fits into the memory", timeout=PATIENCE)
        page.wait_for_selector("text=Time: about", timeout=PATIENCE)
        watch.note("time that a form predicts", page.inner_text("h3:has-text('Time: about')"))
        press("Start training")
        page.wait_for_selector("h1 .badge.finished", timeout=PATIENCE)
        run = page.url.rsplit("/", 1)[1]
        reach("Curves")
        page.keyboard.press("ArrowRight")
        press("Evaluate")
        page.wait_for_selector("p.verdict", timeout=PATIENCE)
        press("Data")
        page.wait_for_selector("text=demo-tasks")
        press("demo-tasks")
        page.wait_for_selector("role=tab[name='Rows']")
        reach("Rows")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("text=The first rows, read like this")
        page.keyboard.press("ArrowRight")
        press("Check the rows")
        page.wait_for_selector("text=rows were read", timeout=PATIENCE)
        visit(page, server.address, f"chat?model={run}")
        reach("Message")
        page.keyboard.type("Which topic? There was no bill.")
        press("Send")
        page.wait_for_selector(".answer .scored", timeout=PATIENCE)
        visit(page, server.address, f"explain?model={run}")
        reach("Text")
        page.keyboard.type(" a scarf")
        press("Explain")
        page.wait_for_selector("text=Logit lens", timeout=PATIENCE)
        watch.check()
        watch.note(
            "by keyboard alone", f"a run, its verdict, a check, a conversation; Tab {pressed} times, always seen"
        )


def step_of(page: Page) -> int:
    return int(page.inner_text("dt:text-is('Update') + dd").split("/")[0].replace(",", ""))


def failures(watch: Watch) -> None:
    """A run that diverges, one that does not fit into memory, and a file that is none."""
    with studio() as server, browser(watch) as context:
        page, base = context.pages[0], server.folder / "base"
        make_model(base, "tiny")
        rows = server.folder / "rows.jsonl"
        row = '{"prompt": "w1 w%d", "completion": "w3"}\n'
        rows.write_text("".join(row % number for number in range(40)), encoding="utf-8")
        visit(page, server.address, "data")
        page.set_input_files("input[type=file]", rows)
        page.wait_for_selector("td.number >> text=20", timeout=PATIENCE)
        broken = server.folder / "broken.csv"
        broken.write_bytes(b"\xff\xfe\x00")
        visit(page, server.address, "data")
        page.set_input_files("input[type=file]", broken)
        page.wait_for_selector("text=Something is wrong with the data", timeout=PATIENCE)
        watch.note("a file that is none", page.inner_text(".error >> nth=0").replace("\n", " "))
        for name, change, title in (
            ("diverged", "lr: 1.0e+30", "Training diverged"),
            ("large", "lr: 0.001", "There is not enough memory"),
        ):
            visit(page, server.address, f"new?data=rows&method=full&model={base}")
            page.wait_for_selector("text=What it will take", timeout=PATIENCE)
            page.wait_for_timeout(1500)
            page.click("role=tab[name='YAML']")
            text = re.sub(r"optim:\n", f"optim:\n  {change}\n", page.input_value("textarea"))
            if name == "large":
                shape = "{model_type: llama, hidden_size: 16384, num_hidden_layers: 100, num_attention_heads: 128}"
                text = re.sub(r"model:\n  base: .*\n", f"model:\n  shape: {shape}\n  tokenizer: {base}\n", text)
            page.fill("textarea", text)
            page.wait_for_timeout(1500)
            run = start_run(page)
            page.wait_for_selector(f"text={title}", timeout=PATIENCE)
            watch.note(f"a run that is {name}", page.inner_text(".error >> nth=0").split("\n\n")[0].replace("\n", " "))
            assert run
        watch.check(("Failed to load resource",))


# Changes to a recipe that is right, each a mistake that people make.
MISTAKES: list[dict[str, object]] = [
    {"objective": {"kind": "sftt"}},
    {"objective": {}},
    {"optim": {"lr": -1}},
    {"optim": {"lr": "fast"}},
    {"optim": {"learning_rate": 0.1}},
    {"optim": {"epochs": [1]}},
    {"optim": {"betas": [0.9]}},
    {"optim": None},
    {"data": {"train": "nowhere.jsonl"}},
    {"data": {"train": "rows.jsonl", "max_length": "long"}},
    {"data": {"train": "rows.jsonl", "format": "poems"}},
    {"data": 5},
    {"model": {"base": "nowhere"}},
    {"model": {"base": "a", "shape": {"model_type": "llama"}}},
    {"adapter": {"rank": 0}},
    {"adapter": {"kind": "magic"}},
    {"save": {"every": 0.5, "keep": "all"}},
    {"devices": {"threads": 0}},
    {"colour": "blue"},
]


def italian(watch: Watch) -> None:
    """What the server says of mistakes and of rows, to who reads Italian."""
    with studio() as server, browser(watch) as context:
        page = context.pages[0]
        rows = server.folder / "rows.jsonl"
        good = '{"prompt": "what is %d and %d", "completion": "a sum that is %d."}\n'
        bad = '{"prompt": "what is %d", "completion": ""}\n{"prompt": "mail me@example.org", "completion": "no"}\n'
        texts = [good % (number, number, 2 * number) for number in range(30)] * 2 + [
            bad % number for number in range(5)
        ]
        rows.write_text("".join(texts), encoding="utf-8")
        visit(page, server.address, "data")
        page.set_input_files("input[type=file]", rows)
        page.wait_for_selector("td.number >> text=20", timeout=PATIENCE)
        page.click("role=tab[name='Check']")
        page.click("text=Check the rows")
        page.wait_for_selector("text=rows were read", timeout=PATIENCE)
        page.get_by_label("Language").select_option("it")
        page.wait_for_selector("html[lang=it]")
        visit(page, server.address, "data/rows/audit?v=1")
        page.wait_for_selector("main span[lang=it]")
        findings = page.locator("main span[lang=it]").count()
        page.wait_for_timeout(500)
        assert not (left := page.locator("main span[lang=en]").all_text_contents()), left
        document = {
            "objective": {"kind": "sft"},
            "model": {"base": str(server.folder)},
            "data": {"train": str(rows)},
            "optim": {"epochs": 1},
        }
        ask = """async (recipes) => {
            const {post} = await import("./api.js");
            const {said} = await import("./said.js");
            const places = [];
            for (const recipe of recipes) {
                const error = await post("runs", {recipe}).catch((error) => error);
                for (const text of [error.message, error.fix]) places.push([text, said(text)]);
            }
            await new Promise((resolve) => setTimeout(resolve, 1000));
            return places.map(([text, place]) => [text, place.textContent, place.lang]);
        }"""
        told = page.evaluate(ask, [{**document, **mistake} for mistake in MISTAKES])
        left = [text for text, _, language in told if text and language != "it"]
        assert not left, left
        watch.note(
            "errors in Italian", f"{len(MISTAKES)} mistakes and {findings} texts of a check; for example: {told[4][1]}"
        )
        watch.check(("Failed to load resource",))


def upload(watch: Watch) -> None:
    """A table of 200 MB."""
    with studio() as server, browser(watch) as context:
        page, path = context.pages[0], server.folder / "large.csv"
        with path.open("w", newline="") as file:
            writer, number = csv.writer(file), 0
            writer.writerow(["question", "answer"])
            while file.tell() < 200 * 10**6:
                writer.writerow([f"question {number} " + "about a word " * 20, "an answer, with a comma " * 5])
                number += 1
        visit(page, server.address, "data")
        start = time.perf_counter()
        page.set_input_files("input[type=file]", path)
        page.wait_for_selector("progress[max]")
        page.wait_for_url("**/#/task/*", timeout=PATIENCE)
        sent = time.perf_counter() - start
        page.wait_for_selector("role=tab[name='Rows']", timeout=PATIENCE)
        whole = time.perf_counter() - start
        assert f"{number:,} rows" in page.inner_text("main")
        page.get_by_label("Row", exact=True).fill(str(number))
        page.wait_for_selector(f"td:has-text('question {number - 1} ')")
        watch.check()
        watch.note("200 MB of CSV", f"{number:,} rows; sent after {sent:.0f} s, ready after {whole:.0f} s")


# Figures


def sampling(watch: Watch) -> None:
    """What the explainer's bars say beside exact probabilities, of a vocabulary that is not sent as a whole."""
    logits = np.random.default_rng(0).normal(0, 2, 50_000)
    logits[:40] = np.random.default_rng(1).normal(8, 1, 40)
    order = np.sort(logits)[::-1]
    counts, edges = np.histogram(order[40:], bins=400)
    places = np.clip(np.searchsorted(edges, order[40:], side="right") - 1, 0, 399)
    sums = np.bincount(places, order[40:], 400)
    rest = [[sums[place] / count, int(count)] for place, count in enumerate(counts) if count]
    document = {"tokens": [{"logit": float(logit)} for logit in order[:40]], "rest": rest}
    ask = "async ([document, settings]) => (await import('./explain/next.js')).probabilities(document, settings)"
    worst = 0.0
    with studio() as server, browser(watch) as context:
        page = context.pages[0]
        visit(page, server.address, "")
        for settings in ((1, 0, 1, 0), (3, 0, 1, 0), (1, 10, 1, 0), (1, 0, 0.6, 0), (1, 0, 0.95, 0), (1.5, 0, 1, 0.02)):
            temperature, top_k, top_p, min_p = settings
            named = {"temperature": temperature, "topK": top_k, "topP": top_p, "minP": min_p}
            found = page.evaluate(ask, [document, named])
            kept = order[: top_k or None]
            parts = np.exp((kept - kept[0]) / temperature)
            before = np.cumsum(parts) / parts.sum() - parts / parts.sum()
            parts = np.where(before < top_p, parts, 0)
            parts = np.where(parts >= min_p * parts[0], parts, 0)
            exact = parts / parts.sum()
            shown = np.array(found["shown"])[: len(exact[:40])]
            worst = max(worst, float(np.abs(shown - exact[:40]).max()), abs(found["others"] - float(exact[40:].sum())))
    watch.note("probabilities of the explainer", f"at most {worst:.1e} from the exact ones, with every filter")
    assert worst < 5e-3


def figures(watch: Watch) -> None:
    with studio() as server, browser(watch) as context:
        page, base = context.pages[0], server.folder / "base"
        make_model(base, "135m")
        visit(page, server.address, "")
        text = " ".join(f"w{number}" for number in range(62))
        ask = """async ([model, text]) => {
            const {post} = await import("./api.js");
            const times = [];
            for (let turn = 0; turn < 6; turn += 1) {
                const start = performance.now();
                const found = await post("explain", {model, text});
                times.push(performance.now() - start);
                if (turn === 0) globalThis.tokens = found.document.model.stacks[0].tokens.length;
            }
            return [globalThis.tokens, times];
        }"""
        tokens, times = page.evaluate(ask, [str(base), text])
        median = sorted(times[1:])[2]
        watch.note("explaining a text on 135 M weights", f"{tokens} tokens in {median:.0f} ms (median of 5, loaded)")
        draw = """async () => {
            const {lineChart, plotly} = await import("./chart.js");
            await plotly();
            const x = Array.from({length: 100000}, (_, index) => index);
            const y = x.map((index) => Math.sin(index / 999) + Math.random());
            const chart = lineChart("curve", {x: "x"});
            document.getElementById("main").append(chart.element);
            await chart.update([{name: "a", x, y}]);
            const times = [];
            for (let turn = 0; turn < 7; turn += 1) {
                const start = performance.now();
                await chart.update([{name: "a", x, y}]);
                times.push(performance.now() - start);
            }
            return times;
        }"""
        drawn = sorted(page.evaluate(draw))[3]
        watch.note("a curve of 100,000 points", f"drawn again in {drawn:.0f} ms (median of 7)")
        visit(page, server.address, "")
        page.click("text=Start with the demo")
        page.wait_for_selector("progress[max]", timeout=PATIENCE)
        tabs, shares = [page, *(context.new_page() for _ in range(9))], {}
        for tab in tabs:
            tab.goto("about:blank")
        idle = server.busy(10)
        # Of the run, while it trains: each page asks for news every second.
        for what, path in (("on a run that trains", "runs/demo-base-1"), ("on the first page", "")):
            for tab in tabs:
                visit(tab, server.address, path)
            shares[what] = server.busy(20 if path == "" else 10)
            found = f"{100 * shares[what]:.1f} % of a core of the server, {100 * idle:.1f} % without any"
            watch.note(f"ten tabs {what}", found)
        watch.check()
        assert median <= 1000
        assert drawn <= 50
        assert max(shares.values()) <= 0.05


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


PARTS: dict[str, Callable[..., None]] = {
    "keyboard": keyboard,
    "hostile": hostile_data,
    "restart": restart,
    "failures": failures,
    "italian": italian,
    "upload": upload,
    "sampling": sampling,
    "figures": figures,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["flow", *PARTS], default=["flow", *PARTS])
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    # A shell that starts this in the background has it ignore Ctrl-C, and so would the servers.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert shutil.which(CHROMIUM), f"no {CHROMIUM}: apt-get install chromium"
    facts: list[tuple[str, str]] = []
    for name in options.only:
        watch, start = Watch(), time.perf_counter()
        if name == "flow":
            use_everything(watch, options.pictures, options.axe)
        else:
            PARTS[name](watch)
        print(f"{name}: done in {time.perf_counter() - start:.0f} s", flush=True)
        facts += watch.facts
    table = "\n".join(["| what | found |", "|---|---|", *(f"| {what} | {found} |" for what, found in facts)])
    write_result("The studio, as a person uses it", table, options.out)


if __name__ == "__main__":
    main()
