"""Builds a TensorRT engine from the exported ONNX, with whichever of NVIDIA's two packages can build on this machine.

Networks are strongly typed: an engine computes in the types of the ONNX file. TensorRT 11 and TensorRT-RTX have no
other networks, no builder flags FP16 and INT8, and no calibrators; TensorRT 10 is asked for the same. So an FP16 engine
is built from a converted file (`half.py`) with a float32 input and output, and an INT8 or FP8 engine from a file with
QuantizeLinear and DequantizeLinear (`quantization.py`).
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.deploy.build_record import RUNNABLE, BuildRecord, Profile
from reid.deploy.gpu import use_gpu
from reid.deploy.half import to_half
from reid.deploy.onnx import INPUT, choice_in, data_type_of, pixels_of_model, read_onnx, thresholds_in
from reid.deploy.pixel_port import PixelPort
from reid.deploy.tensorrt_packages import Package, find_package, find_targets, sm_name, tensorrt_log
from reid.errors import ArtifactError, MissingDependency
from reid.files.encryption import is_encrypted, write_model
from reid.files.hashes import file_sha256
from reid.files.secrets import encryption_key
from reid.files.writing import replacing

logger = logging.getLogger(__name__)


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    data_type: str,
    profile: Profile,
    workspace_mib: int,
    compute_capabilities: Sequence[str] | None,
    timing_cache: Path | None,
    gpu_id: int,
    verbose: bool,
    calibrated: Callable[[Any, Contract], Any] | None = None,
) -> BuildRecord:
    """Builds `engine` from a file that `reid export` wrote, in FP32, FP16, INT8 or FP8; returns the record.

    For INT8 and FP8, `calibrated` makes the quantised network of an FP32 one. An engine of an encrypted ONNX is
    encrypted with the same key. If nothing on this machine can build one, the record says why and `engine` is not
    written. Raises ArtifactError if the ONNX is damaged, if it is in a data type that data_type cannot be made of, or
    if TensorRT refuses it; SpecError for a target the package does not know, and for a GPU that is not there; and what
    `calibrated` raises.
    """
    model, contract = _read_network(data_type, onnx)
    encrypted, thresholds, choice = is_encrypted(onnx), thresholds_in(model, onnx), choice_in(model, onnx)
    record: dict[str, Any] = {
        "onnx_sha256": file_sha256(onnx),
        "contract": asdict(contract),
        "data_type": data_type,
        "profile": profile,
        "workspace_mib": workspace_mib,
        "encrypted": encrypted,
        "thresholds": json.loads(thresholds.to_json()) if thresholds else None,
        "chosen_on": asdict(choice) if choice else None,
    }
    if pixels := pixels_of_model(model):
        reason = f"{onnx} prepares images itself; want an ONNX of export.preprocessing=outside"
        if not encrypted:
            line = trtexec_line(onnx, contract, data_type=data_type_of(model), pixels=pixels)
            reason += f", or by hand: {line}"
        return BuildRecord(built=False, reason=reason, measured="not run: not built", **record)
    try:
        package = find_package(use_gpu(gpu_id, field="gen_trt_engine.gpu_id"))
        targets = find_targets(package, compute_capabilities)
    except MissingDependency as error:
        return BuildRecord(built=False, reason=str(error), measured="not run: not built", **record)
    started = time.monotonic()
    serialized, tf32 = _build(
        _in_data_type(model, contract, data_type, calibrated).SerializeToString(),
        onnx=onnx,
        package=package,
        contract=contract,
        targets=targets,
        profile=profile,
        workspace_mib=workspace_mib,
        timing_cache=timing_cache,
        verbose=verbose,
    )
    write_model(engine, serialized, key=encryption_key() if encrypted else None)
    record |= {"tf32": tf32 if data_type == "FP32" else None, "seconds": round(time.monotonic() - started, 3)}
    made = _builder_entries(package, targets) | _size_and_hash(engine)
    return BuildRecord(built=True, reason=None, **record, **made)


def _builder_entries(package: Package, targets: list[str]) -> dict[str, Any]:
    """The entries of the record that say what built the engine, and for which GPUs."""
    return {
        "package": package.name,
        "version": package.trt.__version__,
        "targets": targets,
        "gpu": package.gpu.name if package.gpu and not package.is_rtx else None,
        "measured": _why_not_run(package, targets),
    }


def _size_and_hash(engine: Path) -> dict[str, Any]:
    return {"engine_bytes": engine.stat().st_size, "engine_sha256": file_sha256(engine)}


def _read_network(data_type: str, onnx: Path) -> tuple[Any, Contract]:
    """The network and its contract; raises if no engine in this data type can be built from it."""
    model, contract = read_onnx(onnx)
    found = data_type_of(model)
    if found not in (data_type, "FP32"):
        raise ArtifactError(
            f"{onnx}: in {found}, and {data_type} is asked for\n"
            f"  want: gen_trt_engine.tensorrt.data_type={found}, or an ONNX of export.data_type=FP32"
        )
    return model, contract


def _in_data_type(
    model: Any, contract: Contract, data_type: str, calibrated: Callable[[Any, Contract], Any] | None
) -> Any:
    """The network as onnx.ModelProto in the types that the engine is to compute in."""
    if data_type_of(model) == data_type:
        return model
    if data_type == "FP16":
        return to_half(model)
    assert calibrated is not None, data_type
    return calibrated(model, contract)


def _why_not_run(package: Package, targets: Sequence[str]) -> str:
    """Why this machine cannot run the engine, or RUNNABLE if it can."""
    if package.gpu is None:
        return "not run: no GPU"
    if package.gpu.compute_capability not in targets:
        return (
            f"not run: built for compute capability {', '.join(targets)}, and the GPU here "
            f"({package.gpu.name}) has {package.gpu.compute_capability}"
        )
    return RUNNABLE


def trtexec_line(onnx: Path, contract: Contract, *, data_type: str = "FP32", pixels: PixelPort | None = None) -> str:
    """The command that builds an engine by hand, with the profile that gen_trt_engine has by default.

    TensorRT 10 keeps the types of an FP16 or INT8 file only with --stronglyTyped. TensorRT 11 always does, takes that
    flag without effect, and refuses --fp16, --int8 and --calib.
    """
    size = f"x{contract.channels}x{contract.height}x{contract.width}"
    typed = "" if data_type == "FP32" else " --stronglyTyped"
    if pixels:  # images of any size get an engine for the contract's
        closed = pixels.of_size(contract.height, contract.width)
        size = "".join(f"x{length}" for length in closed.shape(contract.channels)[1:])
    if pixels and pixels.batch:
        return f"trtexec --onnx={onnx}{typed} --saveEngine=model.engine"
    shapes = " ".join(f"--{name}Shapes={INPUT}:{batch}{size}" for name, batch in (("min", 1), ("opt", 16), ("max", 64)))
    return f"trtexec --onnx={onnx} {shapes}{typed} --saveEngine=model.engine"


def _build(
    content: bytes,
    *,
    onnx: Path,
    package: Package,
    contract: Contract,
    targets: list[str],
    profile: Profile,
    workspace_mib: int,
    timing_cache: Path | None,
    verbose: bool,
) -> tuple[bytes, bool]:
    """The serialized engine, and whether TF32 was allowed; raises ArtifactError with TensorRT's messages."""
    trt = package.trt
    log = tensorrt_log(trt)
    log.verbose = verbose
    log.errors.clear()
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        messages = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ArtifactError(_refusal(package, onnx, "cannot read", messages))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    shapes = builder.create_optimization_profile()
    image = (contract.channels, contract.height, contract.width)
    sizes = (profile.min_batch_size, profile.opt_batch_size, profile.max_batch_size)
    shapes.set_shape(INPUT, *((size, *image) for size in sizes))
    if config.add_optimization_profile(shapes) < 0:
        raise ArtifactError(_refusal(package, onnx, f"refuses batch sizes {sizes} for", log.errors))
    if package.is_rtx:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(trt.ComputeCapability.__members__[sm_name(target)], index)
    if timing_cache is not None:
        _load_timings(package, config, timing_cache)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ArtifactError(_refusal(package, onnx, f"builds no engine with {workspace_mib} MiB from", log.errors))
    if timing_cache is not None and not package.is_rtx:
        with replacing(timing_cache) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(serialized), bool(config.get_flag(trt.BuilderFlag.TF32))


def _strongly_typed(trt: Any) -> int:
    """The flags of a strongly typed network: TensorRT 10 needs one, 11 ignores it, and a later one may not have it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _load_timings(package: Package, config: Any, path: Path) -> None:
    """Gives the kernel timings of an earlier build to this one."""
    if package.is_rtx:
        logger.warning(
            "gen_trt_engine.timing_cache: TensorRT-RTX times no kernels while it builds; %s is not used", path
        )
        return
    known = path.read_bytes() if path.exists() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
        logger.warning("%s: timings of another GPU or TensorRT; measuring anew", path)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _refusal(package: Package, onnx: Path, what: str, messages: Sequence[str]) -> str:
    first = messages[0] if messages else "no message"
    return f"{package.full_name} {what} {onnx}\n  first of {len(messages)} messages: {first.strip()}"
