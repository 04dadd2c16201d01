"""The validate stage: looks at every file of the data set before a GPU is booked.

It also cuts the spec into a slice for each stage and hands them out as the output parameters <stage>_spec. It hands no
artifact to the stages after it: Kubeflow names each artifact anew, so one of a stage that always runs would keep every
later stage out of the cache. The manifest is made by the stage of that name.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reid.data.doctor_sets import examine_sets, summarize_sets
from reid.data.file_index import read_images
from reid.data.file_names import MARKET1501, file_names
from reid.data.findings import Examination, Finding, counted
from reid.data.market_folders import HOW_TO_GET
from reid.errors import DatasetError
from reid.files.writing import replacing
from reid.reports.findings import to_json, to_lines, to_markdown
from reid.reports.findings_page import to_html
from reid.spec import Experiment
from reid.spec.dataset_sections import Synthetic
from reid.spec.facts import STAGES
from reid.spec.slices import stage_slice
from reid.stages.images_seen import ImagesSeen, look_at_images, missing_of
from reid.stages.outcome import Outcome
from reid.training.choosing import require_enough_persons

if TYPE_CHECKING:
    from reid.tracking.stage_run import StageRun


def validate(
    spec: Experiment,
    *,
    report: Path,
    summary: Path,
    findings: Path,
    run: "StageRun",
    with_test_sets: bool = True,
) -> Outcome:
    """Writes the findings (HTML, Markdown, JSON), and hands out the fingerprints and the spec's slices.

    If `dataset.synthetic` or `dataset.source` is set and the data set is absent, it is drawn or fetched first. A
    training that runs alone does not look at further test sets. Raises DatasetError with all errors of the data set,
    after all three files are written; SpecError, before anything is done, for weights of the backbone that timm does
    not know.
    """
    require_weights(spec.model.backbone)
    ensure_made(spec)
    missing = missing_of(spec)
    seen = look_at_images(spec, missing=missing, read=read_images, with_test_sets=with_test_sets)
    found = examine_sets(
        seen.sets,
        num_classes=spec.dataset.num_classes,
        input_size=(spec.model.input_width, spec.model.input_height),
        found_before=[*seen.left_out, *seen.corrected],
        known_copies=Path(spec.store_dir) / "near_duplicates.json",
    )
    if not missing and all(finding.severity != "error" for finding in found):
        found = [*_too_few_to_train(spec, seen), *found]
    examination = Examination(seen.fingerprint, tuple(summarize_sets(seen.sets)), tuple(found))
    _write_findings(examination, report=report, summary=summary, findings=findings, run=run)
    if examination.count("error"):
        run.log_metrics(_metrics(examination))
    _refuse_errors(examination, report=report, advice=_advice(spec) if missing else "")
    source = _source(spec)
    run.log_dataset(source.name if source else "dataset", fingerprint=seen.fingerprint, source=_sources(spec))
    run.log_params({"data_fingerprint": seen.fingerprint})
    slices: dict[str, str | int | float] = {f"{stage}_spec": stage_slice(spec, stage) for stage in STAGES[1:]}
    return Outcome(
        metrics=_metrics(examination)
        | {"skipped_images": float(sum(finding.count for finding in seen.left_out))}
        | ({"corrections": float(sum(note.count for note in seen.corrected))} if spec.dataset.corrections else {}),
        parameters={
            "fingerprint": seen.fingerprint,
            "evaluation_fingerprint": seen.evaluation_fingerprint,
            **slices,
        },
        lines=[*to_lines(examination), *(note.message for note in seen.corrected)],
    )


def _source(spec: Experiment) -> Path | None:
    """The folder after which the data set is named in MLflow."""
    if spec.dataset.train_dataset_dir:
        return Path(spec.dataset.train_dataset_dir).parent
    return Path(spec.dataset.root) if spec.dataset.root else None


def _sources(spec: Experiment) -> str:
    """The folders of the training images."""
    sets = [part.root for part in spec.dataset.train_sets]
    return ", ".join(sets) if sets else str(spec.dataset.train_dataset_dir or spec.dataset.root)


def _write_findings(examination: Examination, *, report: Path, summary: Path, findings: Path, run: "StageRun") -> None:
    """Writes the findings as an HTML page, as Markdown and as JSON, and logs the three files."""
    for path, text in (
        (report, to_html(examination)),
        (summary, to_markdown(examination)),
        (findings, to_json(examination)),
    ):
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names may be of any bytes
        run.log_artifact(path)


def _too_few_to_train(spec: Experiment, seen: ImagesSeen) -> Iterator[Finding]:
    """An error if the training persons do not suffice for the batches, as the train stage would raise it."""
    dataset = spec.dataset
    try:
        require_enough_persons(
            seen.sets.manifest(seen.fingerprint),
            validation_persons=dataset.validation_persons,
            seed=spec.train.seed,
            batch_size=dataset.batch_size,
            num_instances=None if dataset.sampler == "softmax" else dataset.num_instances,
        )
    except DatasetError as error:
        yield Finding(
            "error", "too few to train", "; ".join(" ".join(line.split()) for line in str(error).split("\n")), 1
        )


def _advice(spec: Experiment) -> str:
    """What to do about folders that are missing."""
    drawn, source = spec.dataset.synthetic, spec.dataset.source
    if source:
        return f"remove {source.root} to have the data set fetched again"
    if drawn:
        return f"remove {drawn.root} to have the data set drawn again"
    names = file_names(spec.dataset.file_name, cameras=spec.dataset.cameras)
    return HOW_TO_GET if names.pattern == MARKET1501.pattern else ""


def require_weights(backbone: str) -> None:
    """Raises SpecError if timm does not know the weights behind the dot of a backbone's name.

    Only timm can tell, and it takes three seconds to load, so it is asked only if there is a dot. The name before the
    dot was checked with the spec.
    """
    if "." in backbone:
        from reid.model.backbones import timm_name

        timm_name(backbone)


def ensure_made(spec: Experiment) -> None:
    """Draws or fetches the data set if the spec asks for that and it is absent."""
    drawn, source = spec.dataset.synthetic, spec.dataset.source
    if drawn:
        ensure_drawn(drawn, root=Path(drawn.root), workers=os.cpu_count() or 1)
    elif source:
        from reid.data.fetch import ensure_fetched

        archive = Path(source.zip) if source.zip else None
        ensure_fetched(Path(source.root), url=source.url, archive=archive, sha256=source.sha256)


def ensure_drawn(settings: Synthetic, *, root: Path, workers: int) -> bool:
    """Draws the data set of these settings into `root` if it is absent; returns whether it did.

    Raises DatasetError if one drawn with other settings is there.
    """
    from reid.drawn.dataset import ensure_market

    return ensure_market(
        root,
        train_persons=settings.train_persons,
        test_persons=settings.test_persons,
        cameras=settings.cameras,
        images_per_camera=settings.images_per_camera,
        distractors=settings.distractors,
        junk=settings.junk,
        width=settings.width,
        height=settings.height,
        seed=settings.seed,
        workers=workers,
    )


def _refuse_errors(examination: Examination, *, report: Path, advice: str) -> None:
    errors = examination.of("error")
    if not errors:
        return
    lines = ""
    for error in errors:
        lines += f"\n  {error.check}: {error.message}"
        if error.examples:
            lines += f"\n    first: {error.examples[0]}"
    lines += f"\n  all findings: {report}" + (f"\n{advice}" if advice else "")
    raise DatasetError(f"the data set has {counted(len(errors), 'error')}{lines}")


def _metrics(examination: Examination) -> dict[str, float]:
    metrics: dict[str, float] = {}
    joint = [split for split in examination.splits if split.set_name and split.name == "train"]
    for split in examination.splits:
        prefix = f"{split.set_name}_{split.name}" if split.set_name else split.name
        metrics |= {
            f"{prefix}_images": float(split.images),
            f"{prefix}_persons": float(split.persons),
            f"{prefix}_cameras": float(split.cameras),
        }
    if joint:  # the training images of all sets together
        metrics |= {
            "train_images": float(sum(split.images for split in joint)),
            "train_persons": float(sum(split.persons for split in joint)),
            "train_cameras": float(sum(split.cameras for split in joint)),
        }
    return metrics | {
        "junk": float(sum(split.junk for split in examination.splits)),
        "distractors": float(sum(split.distractors for split in examination.splits)),
        "errors": float(examination.count("error")),
        "warnings": float(examination.count("warning")),
    }
