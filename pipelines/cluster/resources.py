"""What the cluster decides about each task: GPUs, memory, /dev/shm, volumes, nodes, secrets, retries and time-outs. On
one machine the runners pass over all of it.

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
"""The only stages that ever ask for a GPU; the last, because TensorRT builds for the GPU that it finds."""
IMAGE_STAGES = ("validate", "train", "evaluate", "inference", "export", "gen_trt_engine")
"""Stages that open images, and so need the data volume."""
WORK_STAGES = ("train", "export")
"""Stages that see the work volume (see `reid.stages.work_folder`): one works there, the other empties it."""
NETWORKED_STAGES = ("train", "register")
"""Stages that talk to others (a hub of weights, MLflow's registry) or run so long that their node may go: retried."""
RUN_LABEL = "metadata.labels['pipeline/runid']"
"""The label that Kubeflow Pipelines puts on each pod of a run."""
HOUR = 3600
KEY_ENVIRONMENT = "REID_ENCRYPTION_KEY"
"""As `reid.files.secrets` names it."""

CONFIG_MAPS = {"reid-mlflow": {"tracking-uri": "MLFLOW_TRACKING_URI"}}
SECRETS = {
    "reid-mlflow": {"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"},
    "reid-encryption": {"key": KEY_ENVIRONMENT},
}


@dataclass(frozen=True)
class Resources:
    """Requests of one compiled pipeline; all but the first five can stand in the file of `make compile CLUSTER=…`."""

    gpus: int = 0
    """Default of the pipeline parameter `gpus`: of train."""
    embedding_gpus: int = 0
    """Default of the pipeline parameter `embedding_gpus`: of evaluate and of inference, each."""
    engine_gpus: int = 0
    """Default of the pipeline parameter `engine_gpus`: of gen_trt_engine, 0 or 1."""
    cached: bool = True
    """Whether Kubeflow may take results from its cache: only where the images are named by digest."""
    encrypted: bool = False
    """Whether the spec asks for encryption: then the Secret of the key has to be there, or nothing starts."""
    gpu_kind: str = "nvidia.com/gpu"
    memory: str = "16G"
    shared_memory: str = "2Gi"
    """Size of /dev/shm in the network stages; Kubernetes gives 64 MB, too little for loader processes and NCCL."""
    data_claim: str = "reid-data"
    """PersistentVolumeClaim of the data sets, made beforehand (k8s/): default of the pipeline parameter data_claim."""
    data_path: str = "/data"
    """Where it is mounted; the spec's dataset folders lie below."""
    work_claim: str = "reid-work"
    """Claim where a training keeps its checkpoints until they are delivered: a retried one goes on; "": none."""
    work_path: str = "/work"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    gpu_node_selector: Mapping[str, str] = field(default_factory=dict)
    """Of the stages that may ask for a GPU, besides node_selector."""
    tolerations: Sequence[Mapping[str, Any]] = ()
    """key, operator, value, effect, toleration_seconds, as Kubernetes names them; of every stage."""
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: CONFIG_MAPS)
    """ConfigMap -> key -> environment variable; one that is not there is left out."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: SECRETS)
    """Secret -> key -> environment variable; one that is not there is left out, but for the key's where `encrypted`."""
    pull_secrets: Sequence[str] = ()
    retries: int = 2
    """Of the stages that depend on the network, after 1 minute, 2, 4 … at most 10."""
    timeouts: Mapping[str, int] = field(
        default_factory=lambda: {"train": 7 * 24 * HOUR, "evaluate": 6 * HOUR, "inference": 6 * HOUR}
    )
    """Stage -> seconds that one attempt may take."""
    timeout_s: int = 2 * HOUR
    """Of the stages that `timeouts` does not name."""

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
            # in the command, for Kubeflow's cache looks at no secrets: it would hand on what a run left in the clear
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
        """On which nodes, and with which rights to pull."""
        selector = {**self.node_selector, **(self.gpu_node_selector if stage in GPU_STAGES else {})}
        for key, value in selector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in self.tolerations:
            kubernetes.add_toleration(task, **toleration)
        if self.pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(self.pull_secrets))

    def _environment(self, task: dsl.PipelineTask) -> None:
        """The run's id, by which the stages find their MLflow run, and what config maps and secrets hold."""
        kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", RUN_LABEL)
        for name, keys in self.config_maps.items():
            kubernetes.use_config_map_as_env(task, name, dict(keys), optional=True)
        for name, keys in self.secrets.items():
            optional = not (self.encrypted and KEY_ENVIRONMENT in keys.values())
            kubernetes.use_secret_as_env(task, name, dict(keys), optional=optional)
