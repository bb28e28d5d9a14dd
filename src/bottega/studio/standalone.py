"""An explanation as a page of its own: one file, which opens without a server and without a network."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

import bottega

STATIC = Path(__file__).parent / "static"

# The modules of the page. Their names in it begin with `bottega/`: relative ones have no meaning inside a file.
MODULES = ("dom.js", "i18n.js", "explain/draw.js", "explain/next.js", "explain/tour.js", "explain/view.js")
IMPORT = re.compile(r'from "(\.{1,2}/[\w/.]+)"')

START = """
import { fill, h } from "bottega/dom.js";
import { t, use } from "bottega/i18n.js";
import { ExplainView } from "bottega/explain/view.js";

const data = JSON.parse(document.getElementById("data").textContent);
const language = navigator.languages.map((name) => name.slice(0, 2)).find((name) => name in data.texts) ?? "en";
use(language, data.texts[language]);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const attention = async (stack, layer, other, cross) => {
  const [shape, weights] = data.attention[`${other} ${stack} ${layer} ${cross}`];
  return { shape, bytes: bytes(weights) };
};
const main = document.getElementById("main");
const draw = (position, keep) => {
  for (const [side, here] of Object.entries(data.positions[position])) if (here) data.document[side].here = here;
  const view = new ExplainView({ document: data.document, attention, onposition: (index) => draw(index, view.chosen) });
  if (keep) { view.chosen = keep; view.draw(); }
  fill(main, h("h1", t("nav.explain")), h("p.dim", data.document.text), view.element);
};
draw(data.positions.length - 1);
"""


def render_page(explanation: bottega.Explanation) -> str:
    """The page: what a model computed for a text, at every position of it."""
    imports = {f"bottega/{name}": _data_url(_with_absolute_imports(name)) for name in MODULES}
    style = (STATIC / "studio.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>bottega</title><style>{style}</style>",
            f'<script type="importmap">{json.dumps({"imports": imports})}</script></head>',
            '<body><main id="main"></main>',
            f'<script type="application/json" id="data">{_safe_json(_data(explanation))}</script>',
            f'<script type="module">{START}</script></body></html>',
        ]
    )


def _data(explanation: bottega.Explanation) -> dict[str, Any]:
    positions = max(len(stack.ids) for stack in explanation.trace.stacks)
    attention = {}
    sides = [(False, explanation.trace), *([(True, explanation.other_trace)] if explanation.other_trace else [])]
    for other, trace in sides:
        for stack, found in enumerate(trace.stacks):
            for layer, one in enumerate(found.layers):
                for cross in (False, *([True] if one.cross is not None else [])):
                    shape, weights = explanation.attention(stack, layer, other=other, cross=cross)
                    key = f"{str(other).lower()} {stack} {layer} {str(cross).lower()}"
                    attention[key] = [shape, base64.b64encode(weights).decode()]
    texts = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (STATIC / "i18n").glob("??.json")}
    about = [explanation.at(position) for position in range(positions)]
    return {"document": explanation.document(), "positions": about, "attention": attention, "texts": texts}


def _with_absolute_imports(name: str) -> str:
    """The code of a module whose imports begin with `bottega/`."""
    folder = posixpath.dirname(name)

    def absolute(match: re.Match[str]) -> str:
        return f'from "bottega/{posixpath.normpath(posixpath.join(folder, match[1]))}"'

    return IMPORT.sub(absolute, (STATIC / name).read_text(encoding="utf-8"))


def _data_url(code: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(code.encode()).decode()}"


def _safe_json(value: Any) -> str:
    """JSON inside a script element: a text of the model must not end it."""
    return json.dumps(value).replace("<", "\\u003c")
