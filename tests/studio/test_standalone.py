"""An explanation as a page of its own."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import bottega
from bottega.studio.standalone import MODULES, render_page
from making import make_model


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    found = bottega.explain(base, "the cat </script><script>alert(1)", beside=base)
    page = render_page(found)
    (imports,) = re.findall(r'<script type="importmap">(.*?)</script>', page)
    modules = json.loads(imports)["imports"]
    assert modules.keys() == {f"bottega/{name}" for name in MODULES}
    for url in modules.values():
        code = base64.b64decode(url.partition("base64,")[2]).decode()
        assert set(re.findall(r'from "([^"]+)"', code)) <= modules.keys()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(data)
    assert data["document"]["text"] == "the cat </script><script>alert(1)"
    assert len(data["positions"]) == len(found.trace.stacks[-1].ids)
    assert data["positions"][-1]["model"] == data["document"]["model"]["here"]
    assert len(data["attention"]) == 2 * len(found.trace.stacks[-1].layers)
    assert set(data["texts"]) == {"en", "it"}
    assert page.count("</script>") == 3
    assert not re.findall(r"""(?:src|href)=["']""", page)
