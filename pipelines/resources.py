"""What the cluster decides about each task: GPUs, memory, /dev/shm and volumes. On one machine the runners pass over
all of it.

Volumes and node settings go into the compiled pipeline's second YAML document, its Kubernetes platform spec.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kfp import dsl, kubernetes

NETWORK_STAGES = ("train", "evaluate", "inference")
"""Stages that run the network over many images: the only ones that ever ask for a GPU."""
IMAGE_STAGES = ("validate", "train", "evaluate", "inference", "export")
"""Stages that open images, and so need the data volume."""


@dataclass(frozen=True)
class Resources:
    """Requests of one compiled pipeline."""

    gpus: Mapping[str, int] = field(default_factory=dict)
    """Stage -> GPUs; a stage that is not named asks for none."""
    gpu_kind: str = "nvidia.com/gpu"
    memory: str = "16G"
    shared_memory: str = "2Gi"
    """Size of /dev/shm in the network stages; Kubernetes gives 64 MB, too little for loader processes and NCCL."""
    data_claim: str = "reid-data"
    """PersistentVolumeClaim of the data sets, made beforehand (k8s/)."""
    data_path: str = "/data"
    """Where it is mounted; the spec's dataset folders lie below."""

    def request(self, task: dsl.PipelineTask, stage: str) -> None:
        """Adds a stage's requests to its task."""
        task.set_memory_limit(self.memory)
        if stage in NETWORK_STAGES:
            kubernetes.empty_dir_mount(
                task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=self.shared_memory
            )
            if self.gpus.get(stage, 0):
                task.set_accelerator_type(self.gpu_kind)
                task.set_accelerator_limit(self.gpus[stage])
        if stage in IMAGE_STAGES:
            kubernetes.mount_pvc(task, pvc_name=self.data_claim, mount_path=self.data_path)
