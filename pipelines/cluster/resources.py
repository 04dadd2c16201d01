"""What the cluster decides about each task: GPUs, memory, /dev/shm, volumes, nodes, secrets, retries and time-outs. The
runners on one machine ignore all of it.

Most of it goes into the compiled pipeline's second YAML document, its Kubernetes platform spec. The names of claims,
config maps and secrets here are those of k8s/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl, kubernetes

from components.nodes import settings
from pipelines.cluster.memory import PerStage, memory_limit, memory_request

NETWORK_STAGES = ("train", "evaluate", "inference")
"""Stages that run the network over many images."""
GPU_STAGES = (*NETWORK_STAGES, "gen_trt_engine")
"""The only stages that ever ask for a GPU; gen_trt_engine does because TensorRT builds for the GPU that it finds."""
IMAGE_STAGES = ("validate", "manifest", "train", "evaluate", "inference", "export", "gen_trt_engine")
"""Stages that open images, for which they need the data volume."""
WORK_STAGES = ("train", "export")
"""Stages that see the work volume (see `reid.stages.work_folder`): train works there, export empties it."""
LAUNCHING_STAGES = ("validate", "train")
"""Stages that are told of the nodes: train starts them, and validate refuses a form that asks for others."""
BACKOFF_S = 10
"""Argo waits this long before it looks whether to retry: a failed stage is reported that much later."""
NO_END_S = 10 * 365 * 24 * 3600
"""Argo counts a retry's maximal duration from the start of the first attempt: it ends a later attempt at that moment,
and retries nothing after it. KFP has no way to leave it out, and its default is an hour."""
RUN_LABEL = "metadata.labels['pipeline/runid']"
"""The label that Kubeflow Pipelines puts on each pod of a run."""
LAUNCHER_MEMORY = {"limit": "2G", "request": "512M"}
"""Of the train stage if other pods train: it only follows them."""
SHARED_MEMORY, SHARED_MEMORY_PATH = "shm", "/dev/shm"
HOUR = 3600
KEY_ENVIRONMENT = "REID_ENCRYPTION_KEY"
"""The name that reid.files.secrets gives it, too; this file does not import reid."""

CONFIG_MAPS = {"reid-mlflow": {"tracking-uri": "MLFLOW_TRACKING_URI"}}
SECRETS = {
    "reid-mlflow": {"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"},
    "reid-encryption": {"key": KEY_ENVIRONMENT},
}


def as_text(gpus: int) -> str:
    """A count of GPUs as a pipeline parameter: KFP's driver books no GPU for a number or for "", and asks for 0 of them
    for "0"."""
    return str(gpus or "")


@dataclass(frozen=True)
class Resources:
    """Requests of one compiled pipeline; all but the first six can stand in the cluster's file (`cluster_file.py`)."""

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
    num_nodes: int = 1
    """Nodes of train. If there are several, the stage's own pod has no GPU, and each node has `gpus`."""
    training_runtime: str = "torch-distributed"
    """Kubeflow Trainer's runtime of a training on several nodes."""
    gpu_kind: str = "nvidia.com/gpu"
    memory: PerStage = field(default_factory=dict)
    """Memory that a stage may use at most: "32G" for every stage, or stage -> memory; see memory.py for the others."""
    memory_requests: PerStage = field(default_factory=dict)
    """Memory that a stage's pod books on its node, likewise."""
    cpu_request: str = "250m"
    """CPUs that each stage's pod books; a stage uses what is idle beyond that. "": books none."""
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
    """Retries of each stage, after 10 seconds, 20, 40 …; 0: none but those of the installation's own defaults."""
    timeouts: Mapping[str, int] = field(
        default_factory=lambda: {"train": 7 * 24 * HOUR, "evaluate": 6 * HOUR, "inference": 6 * HOUR}
    )
    """Stage -> seconds that one attempt may take."""
    timeout_s: int = 2 * HOUR
    """Seconds that one attempt may take, of the stages that `timeouts` does not name."""

    def request(self, task: dsl.PipelineTask, stage: str, *, data_claim: str, gpus: Mapping[str, str]) -> None:
        """Adds a stage's requests to its task. data_claim and gpus (by stage) are pipeline parameters."""
        launches = stage == "train" and self.num_nodes > 1
        if launches:
            task.set_memory_limit(LAUNCHER_MEMORY["limit"])
            task.set_memory_request(LAUNCHER_MEMORY["request"])
        else:
            self._size(task, stage)
        if not self.cached:
            task.set_caching_options(False)
        if stage in NETWORK_STAGES:
            kubernetes.empty_dir_mount(
                task,
                volume_name=SHARED_MEMORY,
                mount_path=SHARED_MEMORY_PATH,
                medium="Memory",
                size_limit=self.shared_memory,
            )
        if stage in GPU_STAGES and not launches:
            task.set_accelerator_type(self.gpu_kind)
            task.set_accelerator_limit(gpus[stage])
        if stage in IMAGE_STAGES:
            kubernetes.mount_pvc(task, pvc_name=data_claim, mount_path=self.data_path)
        if stage in WORK_STAGES and self.work_claim:
            kubernetes.mount_pvc(task, pvc_name=self.work_claim, mount_path=self.work_path)
            task.set_env_variable("REID_WORK_DIR", self.work_path)
        if self.retries:
            task.set_retry(
                self.retries,
                backoff_duration=f"{BACKOFF_S}s",
                backoff_factor=2,
                backoff_max_duration=f"{NO_END_S}s",
            )
        kubernetes.set_timeout(task, self.timeouts.get(stage, self.timeout_s))
        kubernetes.set_security_context(task, run_as_non_root=True)  # as which user is the image's to say
        self._place(task, gpu=stage in GPU_STAGES and not launches)
        self._environment(task)
        if self.num_nodes > 1 and stage in LAUNCHING_STAGES:
            task.set_env_variable(settings.ENVIRONMENT, self.nodes().as_text())
        if self.encrypted and task.container_spec:
            # in the command, for Kubeflow's cache looks at no secrets: it would take a run's unencrypted result
            task.container_spec.command = [*task.container_spec.command, "--encrypted"]

    def limit(self, stage: str) -> str:
        """The memory that a stage may use at most."""
        return memory_limit(stage, chosen=self.memory, gpus=self.gpus)

    def booked(self, stage: str) -> str:
        """The memory that a stage's pod books."""
        return memory_request(stage, chosen=self.memory_requests, limit=self.limit(stage), gpus=self.gpus)

    def _size(self, task: dsl.PipelineTask, stage: str) -> None:
        """Says what memory and CPUs the task needs. No limit of CPUs: it would only slow a stage down."""
        task.set_memory_limit(self.limit(stage))
        task.set_memory_request(self.booked(stage))
        if self.cpu_request:
            task.set_cpu_request(self.cpu_request)

    @property
    def key_secret(self) -> tuple[str, str] | None:
        """The Secret that holds the encryption key, and its key there."""
        for name, keys in self.secrets.items():
            for key, variable in keys.items():
                if variable == KEY_ENVIRONMENT:
                    return name, key
        return None

    def nodes(self) -> settings.Nodes:
        """The nodes of a training on several, each as large as the pod of a training on one."""
        requests, limits = {"memory": self.booked("train")}, {"memory": self.limit("train")}
        if self.cpu_request:
            requests["cpu"] = self.cpu_request
        if self.gpus:
            requests[self.gpu_kind] = limits[self.gpu_kind] = str(self.gpus)
        return settings.Nodes(
            count=self.num_nodes,
            gpus=self.gpus,
            runtime=self.training_runtime,
            resources={"requests": requests, "limits": limits},
            node_selector=dict(self.gpu_node_selector),
        )

    def _place(self, task: dsl.PipelineTask, *, gpu: bool) -> None:
        """Says on which nodes the task may run, and with which rights to pull images."""
        selector = {**self.node_selector, **(self.gpu_node_selector if gpu else {})}
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
            kubernetes.use_config_map_as_env(task, name, _renamed(keys), optional=True)
        for name, keys in self.secrets.items():
            optional = not (self.encrypted and KEY_ENVIRONMENT in keys.values())
            kubernetes.use_secret_as_env(task, name, _renamed(keys), optional=optional)


def _renamed(keys: Mapping[str, str]) -> dict[str, str]:
    """Key -> variable, MLFLOW_… as REID_MLFLOW_…: KFP's own MLflow plugin may set the same names on the pod.

    A name with two sources makes a pod invalid. The stage takes the prefix off (`reid.tracking.environment`).
    """
    return {key: f"REID_{variable}" if variable.startswith("MLFLOW_") else variable for key, variable in keys.items()}
