"""The environment variables that name MLflow, and how they reach a stage in a pod of Kubeflow Pipelines.

Kubeflow Pipelines' own MLflow plugin may put MLFLOW_TRACKING_URI and its credentials on a pod. If our config map and
Secret did so too under the same names, Argo would merge both into entries with two sources, and Kubernetes refuses such
a pod. So the compiled pipeline gives our variables the prefix REID_ (`pipelines/cluster/resources.py`), which is taken
off here.
"""

from collections.abc import MutableMapping

OURS = "REID_"
"""Prefix under which the variables MLFLOW_… of a config map or Secret reach a pod."""
ADDRESS = "MLFLOW_TRACKING_URI"
CREDENTIALS = {
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
}


def take_mlflow_settings(environment: MutableMapping[str, str]) -> None:
    """Takes each REID_MLFLOW_… variable as MLFLOW_…, unless it is set.

    An address and its credentials belong together: if the plugin has set the address, only its credentials count;
    otherwise ours replace those that the plugin has for itself.
    """
    ours = {name.removeprefix(OURS): value for name, value in environment.items() if name.startswith(f"{OURS}MLFLOW_")}
    if environment.get(ADDRESS):
        ours = {name: value for name, value in ours.items() if name not in CREDENTIALS}
    elif CREDENTIALS & set(ours):
        for name in CREDENTIALS:
            environment.pop(name, None)
    for name, value in ours.items():
        environment.setdefault(name, value)
