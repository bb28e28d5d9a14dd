"""The result of `bottega audit`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

import bottega
from bottega.cli.console import bars

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}

# Width of the column of severities; what follows a finding is indented by as much.
SEVERITY_WIDTH = 9

# Locations shown for each finding. `--json` has them all.
EXAMPLES_PER_FINDING = 3

# Bars of a chart: lists of labels or languages may be long.
MAX_BARS = 12


def show_audit(audit: bottega.Audit, data: Sequence[str], fix: Path | None, console: Console) -> None:
    """Print the findings, worst first, statistics of the rows, checks that were skipped, and how to fix what is wrong.

    data  as given on the command line
    fix   the cleaned copy that was written
    """
    against = "".join(f", against {count:,} of {escape(name)}" for name, count in audit.against.items())
    console.print(f"[bold]{audit.rows:,} rows[/]{against}; {audit.seconds:.1f} s\n")
    for finding in audit.findings:
        _show_finding(finding, console)
    if not audit.findings:
        console.print("No problems found.\n", style="green")
    for name, counts in audit.shape.items():
        _show_counts(name, counts, console)
    for name, reason in audit.unchecked.items():
        console.print(f"[dim]not checked[/] {name.replace('_', ' ')}: {escape(reason)}")
    if audit.cleaned is not None and fix is not None:
        kept, removed, repaired = audit.cleaned
        console.print(f"\n{fix}: {kept:,} rows kept, {removed:,} removed, {repaired:,} repaired", markup=False)
        console.print(f"the reason for each row: {fix.with_suffix('.log.jsonl')}", markup=False)
    elif any(finding.mend for finding in audit.findings):
        command = f"bottega audit {shlex.join(data)} --fix clean.jsonl"
        console.print(f"\nto write a cleaned copy: {command}", markup=False, soft_wrap=True)


def _show_finding(finding: bottega.Finding, console: Console) -> None:
    severity = (f"{finding.severity:{SEVERITY_WIDTH}}", SEVERITY_STYLES[finding.severity])
    console.print(Text.assemble(severity, (finding.kind, "bold"), f"  {finding.count:,} ×"))
    console.print(_indent(finding.what))
    more = f" and {finding.count - EXAMPLES_PER_FINDING:,} more" if finding.count > EXAMPLES_PER_FINDING else ""
    if finding.examples:
        console.print(_indent("; ".join(finding.examples[:EXAMPLES_PER_FINDING]) + more), style="dim")
    if "bottega " in finding.fix:
        # A command stays in one line, to be copied.
        console.print(f"{' ' * SEVERITY_WIDTH}→ {escape(finding.fix)}\n", soft_wrap=True)
    else:
        console.print(_indent(f"→ {finding.fix}\n"))


def _indent(text: str) -> Padding:
    """Text below the name of a finding, wrapped between words."""
    return Padding(Text(text), (0, 0, 0, SEVERITY_WIDTH))


def _show_counts(name: str, counts: Sequence[tuple[str, int]], console: Console) -> None:
    """A bar for each of the first counts."""
    total = sum(count for _, count in counts)
    title = f"{name} ({len(counts)})" if len(counts) > MAX_BARS else name
    console.print(bars(title, [(value, count / total) for value, count in counts[:MAX_BARS]]))
    console.print()
