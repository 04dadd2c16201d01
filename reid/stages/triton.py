"""The triton task: a model repository that Triton Inference Server loads as it is."""

import logging
from pathlib import Path

from reid.deploy.triton import VERSION, write_repository
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)


def triton(spec: Experiment, *, model: Path, repository: Path, run: StageRun) -> Outcome:
    """Writes `model`, an ONNX or a plan, into `repository` under spec.triton.model_name, in place of an earlier one."""
    section = spec.triton
    contract = write_repository(
        repository,
        model,
        backend=section.backend,
        name=section.model_name,
        max_batch_size=section.max_batch_size,
    )
    run.log_params({"triton_backend": section.backend, "model_name": section.model_name})
    size = f"{contract.channels} x {contract.height} x {contract.width}"
    return Outcome(
        {"embedding_width": float(contract.embedding), "max_batch_size": float(section.max_batch_size)},
        {},
        [
            f"Triton model {section.model_name}, version {VERSION}, backend {section.backend}: input {size}, "
            f"batches of at most {section.max_batch_size}",
            f"serve it: tritonserver --model-repository={repository.resolve()}",
        ],
    )
