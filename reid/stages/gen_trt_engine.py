"""The gen_trt_engine stage: a TensorRT engine from the exported ONNX, or a record of why there is none.

If this machine has a GPU that the engine is for, it is run: its speed is measured for each batch size, and its
embeddings of query images are compared with the ONNX's.
"""

import dataclasses
import logging
from pathlib import Path

from reid.data.market1501 import Manifest, Split
from reid.data.store import open_store
from reid.deploy.build_record import RECORD, RUNNABLE, BuildRecord, Profile
from reid.deploy.comparison import Comparison, Limits, compare_vectors
from reid.deploy.engine import EngineModel
from reid.deploy.onnx import OnnxModel
from reid.deploy.quantization import LARGEST
from reid.deploy.sample import evenly
from reid.deploy.speed import measure_speed
from reid.deploy.tensorrt import build_engine
from reid.errors import ArtifactError
from reid.files.writing import copy_file, replacing
from reid.reports.comparison import comparison_page
from reid.spec import Experiment
from reid.stages.engine_calibration import calibrating
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

ENGINE, CANDIDATE, WORST = "model.engine", "model.engine.candidate", "parity_worst.html"
IMAGES = 128
"""Query images on which the engine is compared with the ONNX."""
SECONDS = 1.0
"""How long each batch size is timed."""


def gen_trt_engine(
    spec: Experiment, *, onnx: Path, engine: Path, run: StageRun, dataset: Path | None = None
) -> Outcome:
    """Builds `engine`/model.engine from `onnx`, and writes to `engine`/build.json how, or why not.

    If this machine has nothing to build with, the stage ends well, with build.json alone. A bad ONNX or an impossible
    spec raises (see build_engine). If the engine's embeddings of `dataset`'s query images are not the ONNX's, it stays
    as model.engine.candidate and ArtifactError is raised. If spec.gen_trt_engine.trt_engine is set, it gets a copy of
    the engine, with the build record beside it.
    """
    section = spec.gen_trt_engine
    options = section.tensorrt
    for name in (RECORD, ENGINE, CANDIDATE, WORST):  # an earlier attempt's must not pass for this one's
        (engine / name).unlink(missing_ok=True)
    record = build_engine(
        onnx,
        engine / CANDIDATE,
        data_type=options.data_type,
        profile=Profile(options.min_batch_size, options.tuned_for, options.max_batch_size),
        workspace_mib=options.workspace_size,
        compute_capabilities=options.compute_capabilities,
        timing_cache=Path(section.timing_cache) if section.timing_cache else None,
        gpu_id=section.gpu_id,
        verbose=section.verbose,
        calibrated=calibrating(spec, dataset),
    )
    if record.measured == RUNNABLE:
        record = _run(spec, record, onnx=onnx, engine=engine, dataset=dataset)
    with replacing(engine / RECORD) as partial:
        partial.write_text(record.to_json(), encoding="utf-8")
    run.log_artifact(engine / RECORD)
    _refuse_failure(record, engine, run)
    if record.built:
        (engine / CANDIDATE).replace(engine / ENGINE)
    if record.built and section.trt_engine:
        copy_file(engine / ENGINE, Path(section.trt_engine))
        copy_file(engine / RECORD, Path(f"{section.trt_engine}.json"))
        logger.info("the engine is also in gen_trt_engine.trt_engine: %s", section.trt_engine)
    return _outcome(record)


def _refuse_failure(record: BuildRecord, engine: Path, run: StageRun) -> None:
    """Raises ArtifactError if the engine was run and its embeddings are not the ONNX's."""
    if record.parity and not record.parity["passed"]:
        page = engine / WORST
        run.log_artifact(page)
        raise ArtifactError(
            f"engine parity: the engine does not give the ONNX's embeddings: {record.parity['objections'][0]}\n"
            f"  shown: {page}\n  the engine that failed: {engine / CANDIDATE}"
        )


def _run(spec: Experiment, record: BuildRecord, *, onnx: Path, engine: Path, dataset: Path | None) -> BuildRecord:
    """The record with what was measured on this machine's GPU: speed, and parity if there are query images."""
    model = EngineModel(engine / CANDIDATE, gpu_id=spec.gen_trt_engine.gpu_id, record=record)
    speed = measure_speed(model, batch_sizes(record.profile), contract=model.contract, seconds=SECONDS)
    record = dataclasses.replace(
        record, measured=f"run on {model.gpu.name}", speed=[dataclasses.asdict(row) for row in speed]
    )
    manifest = Manifest.load(dataset) if dataset else None
    if manifest is None or not len(manifest.query):
        logger.warning("no query images: the engine's embeddings are not compared with the ONNX's")
        return record
    rows = evenly(range(len(manifest.query)), IMAGES)
    size = {"height": model.contract.height, "width": model.contract.width, "channels": model.contract.channels}
    pixels = open_store(manifest.query, **size, folder=Path(spec.store_dir), key=manifest.fingerprint)[rows]
    images = Split(manifest.query.root, tuple(manifest.query.images[row] for row in rows))
    parity = compare_vectors(OnnxModel(onnx), model, images, pixels, contract=model.contract)
    found = Comparison(parity, [str(path) for path in images.paths], None, None)
    options, where = spec.gen_trt_engine.tensorrt, "gen_trt_engine"
    min_cosine = spec.gen_trt_engine.min_cosine
    if options.data_type in LARGEST:
        min_cosine, where = options.calibration.min_cosine, "gen_trt_engine.tensorrt.calibration"
    objections = found.objections(Limits(min_cosine, 1.0, 1.0), section=where)
    if objections:
        with replacing(engine / WORST) as partial:
            text = comparison_page(found, model=str(engine / CANDIDATE), objections=objections)
            partial.write_text(text, encoding="utf-8")
    figures = {"worst_cosine": parity.worst_cosine, "mean_cosine": parity.mean_cosine, "max_abs": parity.max_abs}
    verdict = {"passed": not objections, "objections": objections, "min_cosine": min_cosine}
    return dataclasses.replace(record, parity={**verdict, **figures, "images": len(images)})


def batch_sizes(profile: Profile) -> list[int]:
    """The batch sizes to time: the powers of two that the profile takes, and its own three sizes."""
    own = {profile.min_batch_size, profile.opt_batch_size, profile.max_batch_size}
    powers = {2**power for power in range(profile.max_batch_size.bit_length())}
    return sorted(own | {size for size in powers if size >= profile.min_batch_size})


def _outcome(record: BuildRecord) -> Outcome:
    if not record.built:
        return Outcome({"engine_built": 0.0}, {"built": "false"}, [f"TensorRT engine not built: {record.reason}"])
    assert record.engine_bytes is not None and record.seconds is not None
    engine_mib = record.engine_bytes / 2**20
    metrics = {"engine_built": 1.0, "engine_mib": engine_mib, "build_seconds": record.seconds}
    line = (
        f"TensorRT engine: {engine_mib:.1f} MiB, {record.data_type}, by {record.package} {record.version} "
        f"for compute capability {', '.join(record.targets)} in {record.seconds:.1f} s; {record.measured}"
    )
    if record.speed:
        for row in record.speed:
            metrics[f"engine_images_per_second_{row['batch_size']:.0f}"] = row["images_per_second"]
            metrics[f"engine_latency_ms_{row['batch_size']:.0f}"] = row["latency_ms"]
        first, last = record.speed[0], record.speed[-1]
        line += (
            f": {first['latency_ms']:.2f} ms for a batch of {first['batch_size']:.0f}, "
            f"{last['images_per_second']:,.0f} images/s in batches of {last['batch_size']:.0f}"
        )
    if record.parity:
        metrics["engine_worst_cosine"] = record.parity["worst_cosine"]
        line += f"; cosine to the ONNX at least {record.parity['worst_cosine']:.6f}"
    return Outcome(metrics, {"built": "true"}, [line])
