"""bottega: a workshop where a small language model learns its trade.

    import bottega

    recipe = bottega.Recipe.load("recipe.yaml", "optim.lr=1e-4")
    for event in bottega.train(recipe, out="runs/first"):
        print(event)

This is the whole public interface: the command line and the demo use nothing else. A name is imported when it is first
used, so that `import bottega` and `bottega --help` do not wait for torch.
"""

from __future__ import annotations

# `typing` and everything else is imported later: until the command line handles signals, Ctrl-C prints a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # The public names. They are written only here: `_homes` reads where each is defined from these lines.
    from bottega.auditing.audit import audit as audit
    from bottega.auditing.findings import Audit as Audit
    from bottega.auditing.findings import Finding as Finding
    from bottega.batch import Row as Row
    from bottega.data.reader import read_rows as read_rows
    from bottega.data.train_tokenizer import train_tokenizer as train_tokenizer
    from bottega.errors import BottegaError as BottegaError
    from bottega.errors import CheckpointError as CheckpointError
    from bottega.errors import DataError as DataError
    from bottega.errors import DiskError as DiskError
    from bottega.errors import Diverged as Diverged
    from bottega.errors import ModelError as ModelError
    from bottega.errors import OutOfMemory as OutOfMemory
    from bottega.errors import Overloaded as Overloaded
    from bottega.errors import RecipeError as RecipeError
    from bottega.errors import RunError as RunError
    from bottega.errors import from_system_error as from_system_error
    from bottega.evaluation.estimates import Estimate as Estimate
    from bottega.evaluation.evaluate import Evaluation as Evaluation
    from bottega.evaluation.evaluate import evaluate as evaluate
    from bottega.evaluation.options import EvaluateOptions as EvaluateOptions
    from bottega.evaluation.prompting import Shot as Shot
    from bottega.evaluation.prompting import leading_label as leading_label
    from bottega.evaluation.prompting import with_shots as with_shots
    from bottega.events import Answered as Answered
    from bottega.events import Event as Event
    from bottega.events import Failed as Failed
    from bottega.events import Finished as Finished
    from bottega.events import Noted as Noted
    from bottega.events import Saved as Saved
    from bottega.events import Started as Started
    from bottega.events import Stepped as Stepped
    from bottega.events import Validated as Validated
    from bottega.explaining.explain import Explainer as Explainer
    from bottega.explaining.explain import Explanation as Explanation
    from bottega.explaining.explain import explain as explain
    from bottega.explaining.explain import explain_with as explain_with
    from bottega.explaining.vectors import TokenVectors as TokenVectors
    from bottega.explaining.vocabulary import ShownToken as ShownToken
    from bottega.explaining.vocabulary import Vocabulary as Vocabulary
    from bottega.exporting._auto import ExportCandidate as ExportCandidate
    from bottega.exporting._combine import AdapterCombination as AdapterCombination
    from bottega.exporting._combine import combine_adapters as combine_adapters
    from bottega.exporting._compare import AdapterComparison as AdapterComparison
    from bottega.exporting._compare import compare_adapters as compare_adapters
    from bottega.exporting._convert import convert_adapter as convert_adapter
    from bottega.exporting._export import export as export
    from bottega.exporting._formats import check_format as check_format
    from bottega.exporting._job import Export as Export
    from bottega.exporting._job import ExportComparison as ExportComparison
    from bottega.exporting._source import base_of_run as base_of_run
    from bottega.hardware.doctor import doctor as doctor
    from bottega.hardware.native_library import build_native as build_native
    from bottega.hardware.native_library import native_advice as native_advice
    from bottega.hardware.process import configured_process as configured_process
    from bottega.inference.classifier import load_classifier as load_classifier
    from bottega.inference.classifier import load_tagger as load_tagger
    from bottega.inference.deployment import Deployment as Deployment
    from bottega.inference.deployment import DeploymentSettings as DeploymentSettings
    from bottega.inference.deployment import ServedLanguageModel as ServedLanguageModel
    from bottega.inference.embedder import load_embedder as load_embedder
    from bottega.inference.language_model import LanguageModel as LanguageModel
    from bottega.inference.language_model import load_language_model as load_language_model
    from bottega.inference.loader import find_head as find_head
    from bottega.inference.loader import load as load
    from bottega.inference.masked_lm import load_masked as load_masked
    from bottega.inference.scheduler import Done as Done
    from bottega.inference.scheduler import GenerationTicket as GenerationTicket
    from bottega.inference.scheduler import PromptScores as PromptScores
    from bottega.inference.scheduler import ScoredPiece as ScoredPiece
    from bottega.inference.scheduler import TokenScore as TokenScore
    from bottega.inference.scheduler import Update as Update
    from bottega.metrics.catalog import metric_label as metric_label
    from bottega.metrics.graders import GradedText as GradedText
    from bottega.metrics.graders import Grader as Grader
    from bottega.metrics.graders import UngradableError as UngradableError
    from bottega.metrics.graders import parse_grader as parse_grader
    from bottega.metrics.intervals import paired_difference as paired_difference
    from bottega.metrics.intervals import proportion_interval as proportion_interval
    from bottega.models.source import locate as locate
    from bottega.objectives import DEFAULT_OBJECTIVE as DEFAULT_OBJECTIVE
    from bottega.planning.advise import Counsel as Counsel
    from bottega.planning.advise import advise as advise
    from bottega.planning.init import init as init
    from bottega.planning.init import suggest_objective as suggest_objective
    from bottega.planning.plan import Plan as Plan
    from bottega.planning.plan import plan as plan
    from bottega.planning.row_formats import FormatFields as FormatFields
    from bottega.planning.row_formats import RowExample as RowExample
    from bottega.planning.row_formats import RowExamples as RowExamples
    from bottega.planning.row_formats import row_examples as row_examples
    from bottega.planning.row_formats import row_formats as row_formats
    from bottega.progress import StatusCallback as StatusCallback
    from bottega.recipe.files import apply_overrides as apply_overrides
    from bottega.recipe.files import resolve_paths as resolve_paths
    from bottega.recipe.form import recipe_form as recipe_form
    from bottega.recipe.reference import objective_kinds as objective_kinds
    from bottega.recipe.reference import recipe_reference as recipe_reference
    from bottega.recipe.schema import Layout as Layout
    from bottega.recipe.schema import Reading as Reading
    from bottega.recipe.schema import Recipe as Recipe
    from bottega.recipe.schema import Source as Source
    from bottega.recipe.schema import parse_layout as parse_layout
    from bottega.recipe.several import load_several as load_several
    from bottega.records import Prompt as Prompt
    from bottega.records.labels import Entity as Entity
    from bottega.reporting.report import build_report as build_report
    from bottega.reporting.report import check_writable as check_writable
    from bottega.reporting.report import report as report
    from bottega.reporting.report import write_report as write_report
    from bottega.runs.adapters import AdapterInfo as AdapterInfo
    from bottega.runs.adapters import list_adapters as list_adapters
    from bottega.runs.atomic_files import open_atomic as open_atomic
    from bottega.runs.atomic_files import read_json as read_json
    from bottega.runs.atomic_files import write_json as write_json
    from bottega.runs.curves import Curve as Curve
    from bottega.runs.follow import RunFollower as RunFollower
    from bottega.runs.overview import NextStep as NextStep
    from bottega.runs.overview import RunOverview as RunOverview
    from bottega.runs.overview import history as history
    from bottega.runs.overview import next_steps as next_steps
    from bottega.runs.overview import show as show
    from bottega.runs.resolve import resolve as resolve
    from bottega.runs.store import edited_recipe_note as edited_recipe_note
    from bottega.runs.store import new_run_folder as new_run_folder
    from bottega.runs.store import recipe_text as recipe_text
    from bottega.runs.store import recipe_yaml as recipe_yaml
    from bottega.runs.store import stored_recipe as stored_recipe
    from bottega.runs.summary import list_runs as list_runs
    from bottega.sampling import Sampling as Sampling
    from bottega.suggestions import describe_errors as describe_errors
    from bottega.tokenization.conll import to_conll as to_conll
    from bottega.tokenization.tool_calls import ToolCallReader as ToolCallReader
    from bottega.training.loop import resume as resume
    from bottega.training.loop import train as train
    from bottega.training.preview import Preview as Preview
    from bottega.training.preview import TokenPiece as TokenPiece
    from bottega.training.preview import dry_run as dry_run
    from bottega.training.preview import preview as preview
    from bottega.training.setup import peak_lr as peak_lr
    from bottega.training.together import resume_together as resume_together
    from bottega.training.together import train_together as train_together
    from bottega.training.together import trained_together as trained_together

    __all__: list[str]


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_homes())
    if name.startswith("__") or name not in _homes():
        raise AttributeError(f"module 'bottega' has no attribute {name!r}")
    from importlib import import_module

    from bottega.hardware.memory import frozen_imports

    module, attribute = _homes()[name]
    with frozen_imports():
        return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*globals(), *_homes()]


_cached_homes: dict[str, tuple[str, str]] = {}


def _homes() -> dict[str, tuple[str, str]]:
    """Public name → (module, name there), read from the imports above."""
    if not _cached_homes:
        import ast
        from pathlib import Path

        for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bottega."):
                for alias in node.names:
                    if alias.asname is not None:
                        _cached_homes[alias.asname] = (str(node.module), alias.name)
    return _cached_homes
