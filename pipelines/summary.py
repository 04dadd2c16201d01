"""The summary at the end of a run: every stage, the figures before and after training, and the paths of the results.

It fits into 80 columns; in a file it is plain text. The figures are those that the stages wrote, in this run or before.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from rich.table import Table
from rich.text import Text

from pipelines.local.run_report import CACHED, CONTINUED, FAILED, NOT_RUN, RAN, RunReport, TaskReport, shown
from reid.console.progress import duration
from reid.console.tables import range_of, rich_console, table, without_ends

COLOURS = {RAN: "green", CONTINUED: "green", CACHED: "cyan", FAILED: "bold red", NOT_RUN: "dim"}
RANKINGS = {
    "before training": "untrained_",
    "before training, re-ranked": "untrained_reranked_",
    "after training": "",
    "after training, re-ranked": "reranked_",
}
FIGURES = {"mAP": "mAP", "rank-1": "rank1", "rank-5": "rank5", "rank-10": "rank10"}
OPENER = "open" if sys.platform == "darwin" else "xdg-open"
RESULTS = [
    ("report", "evaluate", "report.html", f"{OPENER} {{}}"),
    ("data set report", "validate", "report.html", f"{OPENER} {{}}"),
    ("training report", "train", "report.html", f"{OPENER} {{}}"),
    ("model", "train", "model", "ls -lh {}"),
    ("embeddings", "inference", "embeddings.json", "head -c 300 {}"),
    ("ONNX", "export", "model.onnx", "ls -lh {}"),
    ("engine", "gen_trt_engine", "engine", "ls -lh {}"),
]
"""What it is, the stage that made it, its name in the stage's folder, and the command that opens it."""


def print_summary(report: RunReport, *, results_dir: Path, mlflow: str, stream: TextIO) -> None:
    """Writes the closing summary of a run to the stream; `mlflow` is how to open its MLflow runs."""
    console = rich_console(stream)
    console.print()
    console.print(_stages(report.tasks))
    figures = {stage: task.outputs.metrics for stage, task in report.tasks.items()}
    console.print()
    if "mAP" in figures.get("evaluate", {}):
        console.print(retrieval_table(figures["evaluate"]))
        console.print()
    for rows in (_deployment(report.tasks, figures), _results(report.tasks, results_dir, mlflow)):
        width = max((len(what) for what, _ in rows), default=0)
        for what, text in rows:
            console.print(f"{what:<{width}}  {text}", soft_wrap=True)
        if rows:
            console.print()


def _stages(tasks: Mapping[str, TaskReport]) -> Table:
    rows = table("stage")
    rows.add_column("state", no_wrap=True)
    rows.add_column("time", justify="right", no_wrap=True)
    rows.add_column("figures", overflow="fold")
    for stage, task in tasks.items():
        time = duration(task.seconds) if task.state not in {CACHED, NOT_RUN} else ""
        state = Text(task.state, style=COLOURS.get(task.state, "yellow"))
        rows.add_row(stage, state, time, Text(_key_figures(task)))
    return rows


def _key_figures(task: TaskReport) -> str:
    """The stage's most important sentence; its first figures if it has none."""
    if task.outputs.lines:
        return task.outputs.lines[0]
    return ", ".join(f"{name} {value:.4g}" for name, value in list(task.outputs.metrics.items())[:3])


def retrieval_table(metrics: Mapping[str, float]) -> Table:
    """Percentages before and after training, plain and re-ranked, and those of further test sets by their names.

    Below mAP and rank-1 stand their 95 % intervals: beside them, a terminal of 80 columns would have no room.
    """
    rows = table("retrieval, %", *FIGURES)
    for name, prefix in RANKINGS.items():
        if f"{prefix}mAP" in metrics:
            rows.add_row(name, *(_percent(metrics, prefix + metric) for metric in FIGURES.values()))
    for name in (key.removeprefix("mAP_") for key in without_ends(metrics) if key.startswith("mAP_")):
        for kind, prefix in (("", ""), (", re-ranked", "reranked_")):
            rows.add_row(
                f"{name}{kind}", *(_percent(metrics, f"{prefix}{metric}_{name}") for metric in FIGURES.values())
            )
    return rows


def _percent(metrics: Mapping[str, float], name: str) -> str:
    """A figure, below it its 95 % interval; "" if it is not there."""
    if name not in metrics:
        return ""
    found = range_of(name, metrics)
    return f"{100 * metrics[name]:.1f}" + (f"\n{found}" if found else "")


def _deployment(tasks: Mapping[str, TaskReport], figures: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str]]:
    """How close the ONNX is to the network, and whether there is an engine."""
    rows = []
    cosine = figures.get("export", {}).get("parity_worst_cosine")
    if cosine is not None:
        rows.append(("ONNX parity", f"worst cosine to torch {cosine:.7f}"))
    engine = tasks.get("gen_trt_engine")
    if engine and "engine_built" in engine.outputs.metrics:
        state = "built" if engine.outputs.metrics["engine_built"] else "not built"
        said = engine.outputs.lines[0] if engine.outputs.lines else state
        rows.append(("TensorRT engine", said.removeprefix("TensorRT engine: ")))
    return rows


def _results(tasks: Mapping[str, TaskReport], results_dir: Path, mlflow: str) -> list[tuple[str, str]]:
    """What this run made or took from the cache, each with the command that opens it."""
    latest = results_dir / "latest"
    rows = []
    for what, stage, name, command in RESULTS:
        task = tasks.get(stage)
        path = latest / stage / name
        if task and task.outputs.artifacts and path.exists():
            rows.append((what, command.format(shlex.quote(shown(path)))))
    return [*rows, ("logs", f"less {shlex.quote(shown(latest))}/STAGE/log.txt"), ("MLflow runs", mlflow)]
