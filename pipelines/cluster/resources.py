"""What the cluster decides about each task: GPUs, memory, /dev/shm, volumes, nodes, secrets, retries and time-outs. The
runners on one machine ignore all of it.

Most of it goes into the compiled pipeline's second YAML document, its Kubernetes platform spec. The names of claims,
config maps and secrets here are those of k8s/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl, kubernetes

NETWORK_STAGES = ("train", "evaluate", "inference")
"""Stages that run the network over many images."""
GPU_STAGES = (*NETWORK_STAGES, "gen_trt_engine")
"""The only stages that ever ask for a GPU; gen_trt_engine does because TensorRT builds for the GPU that it finds."""
IMAGE_STAGES = ("validate", "manifest", "train", "evaluate", "inference", "export", "gen_trt_engine")
"""Stages that open images, for which they need the data volume."""
WORK_STAGES = ("train", "export")
"""Stages that see the work volume (see `reid.stages.work_folder`): train works there, export empties it."""
NETWORKED_STAGES = ("train", "register")
"""Stages that are retried: they need a server (weights, MLflow's registry), or run so long that a node may be lost."""
RUN_LABEL = "metadata.labels['pipeline/runid']"
"""The label that Kubeflow Pipelines puts on each pod of a run."""
HOUR = 3600
KEY_ENVIRONMENT = "REID_ENCRYPTION_KEY"
"""The name that reid.files.secrets gives it, too; this file does not import reid."""

CONFIG_MAPS = {"reid-mlflow": {"tracking-uri": "MLFLOW_TRACKING_URI"}}
SECRETS = {
    "reid-mlflow": {"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"},
    "reid-encryption": {"key": KEY_ENVIRONMENT},
}


@dataclass(frozen=True)
class Resources:
    """Requests of one compiled pipeline; all but the first five can stand in the file of `make compile CLUSTER=…`."""

    gpus: int = 0
    """Default of the pipeline parameter `gpus`: GPUs of train."""
    embedding_gpus: int = 0
    """Default of the pipeline parameter `embedding_gpus`: GPUs of evaluate and of inference, each."""
    engine_gpus: int = 0
    """Default of the pipeline parameter `engine_gpus`: GPUs of gen_trt_engine, 0 or 1."""
    cached: bool = True
    """Whether Kubeflow may take results from its cache: only if the images are named by digest."""
    encrypted: bool = False
    """Whether the spec asks for encryption; nothing then starts without the Secret of the key."""
    gpu_kind: str = "nvidia.com/gpu"
    memory: str = "16G"
    shared_memory: str = "2Gi"
    """Size of /dev/shm in the network stages; Kubernetes gives 64 MB, too little for loader processes and NCCL."""
    data_claim: str = "reid-data"
    """PersistentVolumeClaim of the data sets, made beforehand (k8s/): default of the pipeline parameter data_claim."""
    data_path: str = "/data"
    """Folder where the data claim is mounted; the spec's data set folders lie below it."""
    work_claim: str = "reid-work"
    """Claim on which a training keeps its checkpoints until they are delivered, so that a retry resumes; "": none."""
    work_path: str = "/work"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    gpu_node_selector: Mapping[str, str] = field(default_factory=dict)
    """Node labels for the stages that may ask for a GPU, in addition to node_selector."""
    tolerations: Sequence[Mapping[str, Any]] = ()
    """key, operator, value, effect, toleration_seconds, as Kubernetes names them; of every stage."""
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: CONFIG_MAPS)
    """ConfigMap -> key -> environment variable; a ConfigMap that is missing is left out."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: SECRETS)
    """Secret -> key -> environment variable; a Secret that is missing is left out, but not the key's if `encrypted`."""
    pull_secrets: Sequence[str] = ()
    retries: int = 2
    """Retries of each of the NETWORKED_STAGES, after 1 minute, 2, 4 … at most 10."""
    timeouts: Mapping[str, int] = field(
        default_factory=lambda: {"train": 7 * 24 * HOUR, "evaluate": 6 * HOUR, "inference": 6 * HOUR}
    )
    """Stage -> seconds that one attempt may take."""
    timeout_s: int = 2 * HOUR
    """Seconds that one attempt may take, of the stages that `timeouts` does not name."""

    def request(self, task: dsl.PipelineTask, stage: str, *, data_claim: str, gpus: Mapping[str, str]) -> None:
        """Adds a stage's requests to its task. data_claim and gpus (by stage) are pipeline parameters."""
        task.set_memory_limit(self.memory)
        if not self.cached:
            task.set_caching_options(False)
        if stage in NETWORK_STAGES:
            kubernetes.empty_dir_mount(
                task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=self.shared_memory
            )
        if stage in GPU_STAGES:
            task.set_accelerator_type(self.gpu_kind)
            task.set_accelerator_limit(gpus[stage])
        if stage in IMAGE_STAGES:
            kubernetes.mount_pvc(task, pvc_name=data_claim, mount_path=self.data_path)
        if stage in WORK_STAGES and self.work_claim:
            kubernetes.mount_pvc(task, pvc_name=self.work_claim, mount_path=self.work_path)
            task.set_env_variable("REID_WORK_DIR", self.work_path)
        if stage in NETWORKED_STAGES and self.retries:
            task.set_retry(self.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="600s")
        kubernetes.set_timeout(task, self.timeouts.get(stage, self.timeout_s))
        self._place(task, stage)
        self._environment(task)
        if self.encrypted and task.container_spec:
            # in the command, for Kubeflow's cache looks at no secrets: it would take a run's unencrypted result
            task.container_spec.command = [*task.container_spec.command, "--encrypted"]

    @property
    def key_secret(self) -> tuple[str, str] | None:
        """The Secret that holds the encryption key, and its key there."""
        for name, keys in self.secrets.items():
            for key, variable in keys.items():
                if variable == KEY_ENVIRONMENT:
                    return name, key
        return None

    def _place(self, task: dsl.PipelineTask, stage: str) -> None:
        """Says on which nodes the task may run, and with which rights to pull images."""
        selector = {**self.node_selector, **(self.gpu_node_selector if stage in GPU_STAGES else {})}
        for key, value in selector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in self.tolerations:
            kubernetes.add_toleration(task, **toleration)
        if self.pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(self.pull_secrets))

    def _environment(self, task: dsl.PipelineTask) -> None:
        """Sets the run's id, by which the stages find their MLflow run, and what config maps and secrets hold."""
        kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", RUN_LABEL)
        for name, keys in self.config_maps.items():
            kubernetes.use_config_map_as_env(task, name, dict(keys), optional=True)
        for name, keys in self.secrets.items():
            optional = not (self.encrypted and KEY_ENVIRONMENT in keys.values())
            kubernetes.use_secret_as_env(task, name, dict(keys), optional=optional)
