"""The rows of `make gpu-check` by name. A twin is the same on the CPU."""

from tests.bench import check_figures as figures
from tests.bench import check_io as io
from tests.bench import check_trainings as trainings
from tests.bench.check_case import Case

CASES = {
    "data": Case(figures.data, figures.data_lines, limit_s=120, timed=True),
    "fp32": Case(trainings.steps("train.precision=32"), trainings.steps_lines, limit_s=90, timed=True),
    "bf16": Case(trainings.steps("train.precision=auto"), trainings.steps_lines, timed=True),
    "fp16": Case(trainings.half, trainings.steps_lines, timed=True),
    "trained": Case(trainings.trained, trainings.trained_lines, limit_s=90, timed=True),
    "repeated": Case(trainings.repeated, trainings.repeated_lines, limit_s=150),
    "ranks": Case(figures.ranks, figures.ranks_lines, limit_s=150),
    "evaluation": Case(figures.evaluation, figures.evaluation_lines, twin=True, limit_s=120),
    "checkpoint": Case(io.checkpoint, io.checkpoint_lines),
    "memory": Case(trainings.memory, trainings.memory_lines, limit_s=90),
    "first-steps": Case(figures.first_steps, figures.first_steps_lines, twin=True, limit_s=120),
    "validation": Case(io.validation, io.validation_lines, limit_s=90, timed=True),
    "losses": Case(figures.losses, figures.losses_lines, twin=True, limit_s=120),
    "augmentation": Case(figures.augmentation, figures.augmentation_lines),
    "export": Case(figures.export, figures.export_lines, limit_s=120),
    "compiled": Case(trainings.steps("train.compile=on"), trainings.steps_lines, limit_s=150, timed=True),
    "switches": Case(trainings.switches, trainings.switches_lines, limit_s=120, timed=True),
    "re-ranking": Case(figures.re_ranking, figures.re_ranking_lines, limit_s=90, timed=True),
    "swin": Case(trainings.swin, trainings.steps_lines, timed=True),
    "compiled-fp32": Case(
        trainings.steps("train.precision=32", "train.compile=on"), trainings.steps_lines, limit_s=150, timed=True
    ),
}
"""In the order in which they run: what tells most in least time comes first."""
NEEDED = {
    "evaluation": "trained",
    "export": "trained",
    "bf16": "fp32",
    "fp16": "fp32",
    "compiled": "fp32",
    "compiled-fp32": "fp32",
}
"""Rows that use what another one leaves: files in the scratch folder, or its figures."""
