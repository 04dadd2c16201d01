"""The inference stage: embeddings of every query and gallery image, as JSON, .npz or .parquet."""

import logging
from pathlib import Path

from reid.data.market1501 import Manifest
from reid.deploy.embedding import splits_of
from reid.deploy.opening import ModelCard
from reid.distributed.launching import devices_here
from reid.embedding_files.rows import About, blocks_of, require_utf8
from reid.embedding_files.writing import require_place, write_embeddings
from reid.embeddings import Embeddings, write_json
from reid.files.hashes import file_sha256
from reid.files.writing import copy_file, require_writable
from reid.spec import Experiment
from reid.stages.embedding import embed_dataset
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)


def inference(spec: Experiment, *, dataset: Path, model: Path, embeddings: Path, run: StageRun) -> Outcome:
    """Writes the rows of all query, then all gallery images (junk too), sorted, not normalised.

    `embeddings` gets {"img_path", "embedding"} as JSON. If spec.inference.output_file is set, it gets the same rows in
    the format of its ending; if `embeddings` is that very path, only this file is written. A file that is there is
    replaced.
    """
    section = spec.inference
    asked = Path(section.output_file) if section.output_file else None
    packed = asked if asked and asked.suffix.lower() != ".json" else None
    lists = {embeddings, *([asked] if asked else [])} - {packed}
    for file in lists:
        require_writable(file)
    if packed:
        splits = splits_of(Manifest.load(dataset), all_test_sets=False)
        require_place(packed, rows=sum(map(len, splits.values())), shard_rows=section.shard_rows)
        if packed.suffix.lower() == ".parquet":  # now, and not after all images are embedded
            require_utf8([image.file for split in splits.values() for image in split.images], target=packed)
    devices = devices_here(
        "inference", num_gpus=section.num_gpus, gpu_ids=section.gpu_ids, cpu_processes=section.cpu_processes
    )
    opened, parts, images_per_second = embed_dataset(spec, devices, dataset=dataset, model=model, with_junk=True)
    if embeddings in lists:
        write_json(embeddings, *parts.values())
    if packed:
        _write_packed(spec, packed, opened, parts)
    elif asked:
        copy_file(embeddings, asked)
        logger.info("the same rows are in inference.output_file: %s", asked)
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


def _write_packed(spec: Experiment, packed: Path, opened: ModelCard, parts: dict[str, Embeddings]) -> None:
    """Writes the rows to inference.output_file as .npz or .parquet, with what is known about the model."""
    files = write_embeddings(
        packed,
        blocks_of(parts),
        rows=sum(len(part) for part in parts.values()),
        width=opened.contract.embedding,
        about=About(file_sha256(opened.file), opened.contract.to_json(), opened.thresholds),
        data_type=spec.inference.data_type,
        shard_rows=spec.inference.shard_rows,
    )
    where = files[0] if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more files in {files[0].parent}"
    logger.info("inference.output_file: %s, %s", where, spec.inference.data_type)
