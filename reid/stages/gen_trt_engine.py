"""The gen_trt_engine stage: a TensorRT engine from the exported ONNX, or a plain word why there is none."""

import logging
from pathlib import Path

from reid.deploy.tensorrt import BuildRecord, Profile, build_engine
from reid.files import copy_file, replacing
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from reid.tracking import StageRun

logger = logging.getLogger(__name__)

ENGINE, RECORD = "model.engine", "build.json"


def gen_trt_engine(spec: Experiment, *, onnx: Path, engine: Path, run: StageRun) -> Outcome:
    """Builds `engine`/model.engine from `onnx` and writes `engine`/build.json, which says how; returns built.

    Where this machine has nothing to build with the stage ends well, with build.json alone. A bad ONNX or an impossible
    spec raises (see build_engine). spec.gen_trt_engine.trt_engine, where set, gets a copy of the engine.
    """
    section = spec.gen_trt_engine
    options = section.tensorrt
    for name in (RECORD, ENGINE):  # an earlier attempt's record must not describe this one's engine
        (engine / name).unlink(missing_ok=True)
    record = build_engine(
        onnx,
        engine / ENGINE,
        data_type=options.data_type,
        profile=Profile(options.min_batch_size, options.opt_batch_size, options.max_batch_size),
        workspace_mib=options.workspace_size,
        compute_capabilities=options.compute_capabilities,
        timing_cache=Path(section.timing_cache) if section.timing_cache else None,
        gpu_id=section.gpu_id,
        verbose=section.verbose,
    )
    with replacing(engine / RECORD) as partial:
        partial.write_text(record.to_json(), encoding="utf-8")
    run.log_artifact(engine / RECORD)
    if record.built and section.trt_engine:
        copy_file(engine / ENGINE, Path(section.trt_engine))
        logger.info("the engine is also in gen_trt_engine.trt_engine: %s", section.trt_engine)
    return _outcome(record)


def _outcome(record: BuildRecord) -> Outcome:
    if not record.built:
        return Outcome({"engine_built": 0.0}, {"built": "false"}, [f"TensorRT engine not built: {record.reason}"])
    assert record.engine_bytes is not None and record.seconds is not None
    engine_mib = record.engine_bytes / 2**20
    return Outcome(
        {"engine_built": 1.0, "engine_mib": engine_mib, "build_seconds": record.seconds},
        {"built": "true"},
        [
            f"TensorRT engine: {engine_mib:.1f} MiB, {record.data_type}, by {record.package} {record.version} "
            f"for compute capability {', '.join(record.targets)} in {record.seconds:.1f} s; {record.measured}"
        ],
    )
