"""The inference stage: embeddings of every query and gallery image as one JSON list."""

import logging
from pathlib import Path

from reid.distributed.launching import devices_here
from reid.embeddings import write_json
from reid.files.writing import copy_file, require_writable
from reid.spec import Experiment
from reid.stages.embedding import embed_dataset
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)


def inference(spec: Experiment, *, dataset: Path, model: Path, embeddings: Path, run: StageRun) -> Outcome:
    """Writes {"img_path", "embedding"} of all query, then all gallery images (junk too), sorted, not normalised.

    If spec.inference.output_file is set, it gets the same content; a file that is there is replaced.
    """
    for file in (embeddings, spec.inference.output_file):
        require_writable(file)
    section = spec.inference
    devices = devices_here(
        "inference", num_gpus=section.num_gpus, gpu_ids=section.gpu_ids, cpu_processes=section.cpu_processes
    )
    opened, parts, images_per_second = embed_dataset(spec, devices, dataset=dataset, model=model, with_junk=True)
    write_json(embeddings, *parts.values())
    if spec.inference.output_file:
        copy_file(embeddings, Path(spec.inference.output_file))
        logger.info("the same rows are in inference.output_file: %s", spec.inference.output_file)
    rows = sum(len(part) for part in parts.values())
    run.log_params({"checkpoint": opened.file.name, **opened.settings})
    return Outcome(
        metrics={
            "rows": float(rows),
            "embedding_width": float(opened.contract.embedding),
            "images_per_second": images_per_second,
        },
        lines=[f"{rows:,} embeddings of width {opened.contract.embedding} at {images_per_second:.0f} images/s"],
    )
