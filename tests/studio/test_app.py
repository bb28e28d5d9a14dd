"""The pages: what is sent with them, who gets them, and that their texts are there in every language."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from error_templates import error_templates
from studios import Studio, run_studio

import bottega
from bottega import adapters
from bottega.auditing import checks
from bottega.metrics.catalog import METRICS
from bottega.server.gate import GateSettings
from bottega.server.keys import KeyRing
from bottega.studio.app import STATIC, create_studio
from bottega.studio.methods import methods

SCRIPTS = sorted(STATIC.rglob("*.js"))
LANGUAGES = sorted((STATIC / "i18n").glob("??.json"))


def texts(path: Path) -> dict[str, str]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_pages_come_without_a_key_and_data_does_not(tmp_path: Path) -> None:
    with run_studio(tmp_path, gate=GateSettings(KeyRing("secret"))) as studio:
        studio.http.headers.pop("authorization")
        page = studio.http.get("/studio/")
        assert page.status_code == 200
        assert "app.js" in page.text
        assert studio.http.get("/studio/api/home").status_code == 401
        assert studio.http.get("/studio/../v1/models").status_code == 401
        answer = studio.http.get("/studio/api/home", headers={"authorization": "Bearer wrong"})
        assert answer.status_code == 401
        assert studio.http.get("/studio/api/home", headers={"authorization": "Bearer secret"}).status_code == 200


def test_nothing_from_elsewhere_is_allowed(studio: Studio) -> None:
    answer = studio.http.get("/studio/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "script-src" not in policy, "nothing beyond the default"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert studio.http.get("/studio/app.js").headers["content-type"].startswith("text/javascript")
    assert studio.http.get("/studio", follow_redirects=True).text == answer.text
    assert studio.http.get("/studio/api/home", headers={"host": "evil.example"}).status_code == 403
    assert studio.http.get("/studio/api/home", headers={"origin": "http://evil.example"}).status_code == 403
    assert studio.http.get("/studio/none.js").status_code == 404


def test_the_charts_come_out_of_their_package(studio: Studio) -> None:
    answer = studio.http.get("/studio/plotly.js")
    assert answer.status_code == 200
    assert len(answer.content) > 1_000_000


def test_the_first_page_is_small() -> None:
    """Everything that is loaded before the first page is drawn, without compression."""
    names = [
        "index.html",
        "studio.css",
        "app.js",
        "api.js",
        "dom.js",
        "i18n.js",
        "parts.js",
        "pages/home.js",
        "i18n/en.json",
    ]
    assert sum((STATIC / name).stat().st_size for name in names) <= 100_000


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.name)
def test_no_text_is_missing_in_any_language(path: Path) -> None:
    english, own = texts(STATIC / "i18n" / "en.json"), texts(path)
    assert own.keys() == english.keys()
    for key, text in own.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", english[key])), key
    if path.name != "en.json":
        # Names and abbreviations are the same everywhere; most texts are not.
        same = [key for key, text in own.items() if text == english[key]]
        assert len(same) < 0.15 * len(own), same


@pytest.mark.parametrize("path", [path for path in LANGUAGES if path.name != "en.json"], ids=lambda path: path.name)
def test_every_field_of_a_recipe_is_described_in_any_language(path: Path) -> None:
    """In English it is its own description."""
    own = texts(path.with_name(f"recipe.{path.name}"))
    keys = {
        field["key"]
        for objective in bottega.objective_kinds()
        for adapter in (None, *adapters.kinds())
        for field in bottega.recipe_form(objective, adapter)
    }
    assert own.keys() == keys


@pytest.mark.parametrize("path", [path for path in LANGUAGES if path.name != "en.json"], ids=lambda path: path.name)
def test_what_errors_say_is_there_in_any_language(path: Path) -> None:
    own = texts(path.with_name(f"errors.{path.name}"))
    assert own.keys() == error_templates()
    for template, text in own.items():
        places = {int(place) for place in re.findall(r"\{(\d+)\}", text)}
        assert places == set(range(template.count("{}"))), template
        assert "{}" not in text, template


def test_what_a_request_may_not_be_has_words_of_its_own(studio: Studio) -> None:
    """Of other constraints errors would say what pydantic says, which is not translated."""
    structure = {"type", "title", "description", "default", "properties", "required", "items", "prefixItems"}
    structure |= {"anyOf", "$ref"}
    worded = {"additionalProperties", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
    schemas = create_studio(studio.workshop).openapi()["components"]["schemas"]
    asked = {name: schema for name, schema in schemas.items() if not name.endswith("ValidationError")}
    assert len(asked) > 15

    def check(schema: Any) -> None:
        if isinstance(schema, bool):
            return
        assert schema.keys() <= structure | worded, schema
        parts = (schema.get("properties", {}).values(), schema.get("anyOf", ()), schema.get("prefixItems", ()))
        single = (schema[key] for key in ("items", "additionalProperties") if key in schema)
        for one in chain(*parts, single):
            check(one)

    for schema in asked.values():
        check(schema)


def test_every_text_that_a_page_asks_for_is_there() -> None:
    """Keys that stand in the code; `run.*` and the like made of variables are found by their beginning."""
    english = texts(STATIC / "i18n" / "en.json")
    for script in SCRIPTS:
        code = script.read_text(encoding="utf-8")
        for key in re.findall(r"""\bt\(\s*["']([\w.-]+)["']""", code):
            assert key in english, f"{script.name}: {key}"
        for start in set(re.findall(r"\bt\(`([\w.-]+)\$\{", code)) - {"recipe."}:  # in files of their own
            assert any(key.startswith(start) for key in english), f"{script.name}: {start}"


def test_every_text_is_used() -> None:
    code = "".join(script.read_text(encoding="utf-8") for script in SCRIPTS)
    made = re.findall(r"`([\w.-]+\.)\$\{", code)
    for key in texts(STATIC / "i18n" / "en.json"):
        name = key.removesuffix("#one")
        assert f'"{name}"' in code or any(name.startswith(start) for start in made), key


def test_what_a_task_does_has_words_in_any_language() -> None:
    """Of its messages the first word decides; those of the command line and of the demo nobody sees here."""
    english, words = texts(STATIC / "i18n" / "en.json"), set[str]()
    for source in Path(bottega.__file__).parent.rglob("*.py"):
        if source.relative_to(Path(bottega.__file__).parent).parts[0] not in ("cli", "demo"):
            code = source.read_text(encoding="utf-8")
            told = r'(?:tell|progress|report_status|progress_callback|update_reporter)\(\s*(?:[\w.]+,\s*)?f?"(\w+)'
            words |= set(re.findall(told, code))
    assert words == {key.removeprefix("doing.") for key in english if key.startswith("doing.")}


def test_metrics_have_texts() -> None:
    english = texts(STATIC / "i18n" / "en.json")
    assert {f"metric.{one.id}": one.label for one in METRICS.values()}.items() <= english.items()


def test_checks_of_data_have_texts() -> None:
    english = texts(STATIC / "i18n" / "en.json")
    assert {f"check.{name}" for name in checks.names()} == {key for key in english if key.startswith("check.")}


def test_methods_have_texts() -> None:
    english = texts(STATIC / "i18n" / "en.json")
    for method in methods():
        assert {f"method.{method.id}", f"method.{method.id}.what"} <= english.keys()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(STATIC)))
def test_scripts_make_no_markup_of_texts_and_load_nothing_from_elsewhere(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert word not in code
    assert set(re.findall(r"https?://[\w./]+", code)) <= {"http://www.w3.org/2000/svg"}
