"""The pods of the compiled pipeline beside Kubeflow Pipelines' own MLflow plugin, in each of its settings."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import yaml

from pipelines.run import main
from reid.tracking.environment import take_mlflow_settings

Entry = dict[str, Any]

CONFIG = {"name": "KFP_MLFLOW_CONFIG", "value": '{"endpoint": "http://theirs", "parentRunId": "p"}'}
RUN = [
    {"name": "MLFLOW_RUN_ID", "value": "task-run"},
    {"name": "MLFLOW_TRACKING_URI", "value": "http://theirs"},
    {"name": "MLFLOW_EXPERIMENT_ID", "value": "1"},
]
CREDENTIALS = {
    "none": [],
    "kubernetes": [{"name": "MLFLOW_TRACKING_AUTH", "value": "kubernetes-namespaced"}],
    "bearer": ["MLFLOW_TRACKING_TOKEN"],
    "basic-auth": ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"],
}
"""Kind of authentication -> the variables of it; a mere name comes from the plugin's Secret."""
OURS = {
    ("reid-mlflow", "tracking-uri"): "http://ours",
    ("reid-mlflow", "username"): "me",
    ("reid-mlflow", "password"): "hush",
    ("kfp-mlflow-credentials", "key"): "theirs",
}
"""(config map or Secret, key) -> value, as the cluster holds them."""


def of_plugin(kind: str) -> list[Entry]:
    """What KFP's common/plugins/mlflow/config.go, BuildCredentialEnvVars, makes."""
    reference = {"secretKeyRef": {"name": "kfp-mlflow-credentials", "key": "key"}}
    return [one if isinstance(one, dict) else {"name": one, "valueFrom": reference} for one in CREDENTIALS[kind]]


def patch_of_driver(pipeline: Entry, platform: Entry, executor: str, plugin: list[Entry]) -> list[Entry]:
    """The main container's env as KFP's v2/driver makes it: initPodSpecPatch, then extendPodSpecPatch."""
    env = [dict(one) for one in pipeline["deploymentSpec"]["executors"][executor]["container"].get("env", [])]
    env += plugin
    for source, reference, key in (("secret", "secretKeyRef", "secretKey"), ("configMap", "configMapKeyRef", None)):
        for given in platform[executor].get(f"{source}AsEnv", []):
            name = given.get(f"{source}Name")
            for one in given["keyToEnv"]:
                chosen = {"name": name, "key": one[key or "configMapKey"], "optional": given.get("optional", False)}
                env.append({"name": one["envVar"], "valueFrom": {reference: chosen}})
    for given in platform[executor].get("fieldPathAsEnv", []):
        env.append({"name": given["name"], "valueFrom": {"fieldRef": {"fieldPath": given["fieldPath"]}}})
    return env


def merged(original: Entry, patch: Entry) -> Entry:
    """Kubernetes' strategic merge of two maps."""
    both = dict(original)
    for key, value in patch.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and key in both else value
    return both


def apply_pod_spec_patch(env: Iterable[Entry], patch: Iterable[Entry]) -> list[Entry]:
    """As Argo's ApplyPodSpecPatch: entries of one name are merged, field by field."""
    found: dict[str, Entry] = {}
    for entry in itertools.chain(env, patch):
        found[entry["name"]] = merged(found.get(entry["name"], {}), entry)
    return list(found.values())


def is_valid(entry: Entry) -> bool:
    """Whether Kubernetes takes this entry: one value, or one source."""
    sources = entry.get("valueFrom", {})
    return "valueFrom" not in entry or (not entry.get("value") and len(sources) == 1)


def environment_of(env: list[Entry]) -> dict[str, str]:
    """What the process sees."""
    seen = {}
    for entry in env:
        for chosen in entry.get("valueFrom", {}).values():
            value = OURS.get((chosen.get("name"), chosen.get("key")))
            if value is not None:
                seen[entry["name"]] = value
        if "value" in entry:
            seen[entry["name"]] = entry["value"]
    take_mlflow_settings(seen)
    return {name: value for name, value in seen.items() if name.startswith("MLFLOW_")}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Entry, Entry]:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "cluster.yaml").write_text("config_maps: {reid-mlflow: {tracking-uri: MLFLOW_TRACKING_URI}}\n")
    command = ["--spec", "market", "--compile-only", str(folder / "pipeline.yaml")]
    assert main([*command, "--cluster", str(folder / "cluster.yaml")]) == 0
    pipeline, platform = yaml.safe_load_all((folder / "pipeline.yaml").read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.mark.parametrize("kind", CREDENTIALS)
@pytest.mark.parametrize("plugin", ["off", "on", "on, injectUserEnvVars"])
def test_a_pod_is_valid_and_names_one_mlflow_with_its_own_credentials(
    compiled: tuple[Entry, Entry], plugin: str, kind: str
) -> None:
    pipeline, platform = compiled
    template = [] if plugin == "off" else [CONFIG, *of_plugin(kind)]
    injected = [*RUN, *of_plugin(kind)] if plugin == "on, injectUserEnvVars" else []
    for executor in platform:
        env = apply_pod_spec_patch(template, patch_of_driver(pipeline, platform, executor, injected))
        assert [entry for entry in env if not is_valid(entry)] == []
        for entry in of_plugin(kind) if template else []:
            assert entry in env  # the launcher logs in with them
        seen = environment_of(env)
        if injected:
            theirs = {entry["name"]: entry.get("value", "theirs") for entry in injected}
            assert seen == theirs
        else:
            ours = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hush"}
            assert seen == {"MLFLOW_TRACKING_URI": "http://ours", **ours}


def test_the_merge_shows_the_fault_that_the_prefix_avoids() -> None:
    reference = {"configMapKeyRef": {"name": "reid-mlflow", "key": "tracking-uri", "optional": True}}
    env = apply_pod_spec_patch([], [RUN[1], {"name": "MLFLOW_TRACKING_URI", "valueFrom": reference}])
    assert [is_valid(entry) for entry in env] == [False]


def test_without_credentials_of_ours_those_of_the_plugin_stay() -> None:
    environment = {"REID_MLFLOW_TRACKING_URI": "http://ours", "MLFLOW_TRACKING_TOKEN": "theirs"}
    take_mlflow_settings(environment)
    assert environment["MLFLOW_TRACKING_URI"] == "http://ours"
    assert environment["MLFLOW_TRACKING_TOKEN"] == "theirs"
