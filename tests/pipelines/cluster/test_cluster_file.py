"""Mistakes in the cluster's file that would only show as a pod that Kubernetes refuses."""

from pathlib import Path

import pytest
import yaml

from pipelines.cluster.cluster_file import read_cluster
from reid.errors import PipelineError
from reid.spec.facts import STAGES

LABEL = "small letters, digits and '-' alone, at most 63: KFP names the pod's volume by the claim"
TAKEN = "another name: a stage's pod has a volume of that name already"
MEMORY = "memory as Kubernetes writes it, e.g. 32G, 512Mi"
LISTED = f"stages: {', '.join(STAGES)}"
FOLDER = "a folder of its own below /, e.g. /data"
NAME = "small letters, digits, '-' and '.', at most 253"
SECONDS = "seconds, a whole number from 1"
TWICE = (
    "another claim than data_claim: one pod cannot mount a claim twice;"
    ' or work_claim: "", and a retry trains from the start'
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("data_claim: reid-work", f"work_claim: found 'reid-work'\n  want: {TWICE}"),
        ("{data_claim: one, work_claim: one}", f"work_claim: found 'one'\n  want: {TWICE}"),
        ("data_claim: reid.data", f"data_claim: found 'reid.data'\n  want: {LABEL}"),
        ("work_claim: Work", f"work_claim: found 'Work'\n  want: {LABEL}"),
        ("data_claim: -data", f"data_claim: found '-data'\n  want: {LABEL}"),
        ('data_claim: ""', f"data_claim: found ''\n  want: {LABEL}"),
        (f"data_claim: {64 * 'a'}", f"data_claim: found '{64 * 'a'}'\n  want: {LABEL}"),
        ("work_claim: shm", f"work_claim: found 'shm'\n  want: {TAKEN}"),
        ("data_claim: kfp-launcher", f"data_claim: found 'kfp-launcher'\n  want: {TAKEN}"),
        ("data_path: data", f"data_path: found 'data'\n  want: {FOLDER}"),
        ("work_path: /dev/shm/", f"work_path: found '/dev/shm/'\n  want: {FOLDER}"),
        ("data_path: /work/", "work_path: found '/work'\n  want: another folder than data_path"),
        ("memory: 16", f"memory: found 16\n  want: {MEMORY}"),
        ("memory: 16GB", f"memory: found '16GB'\n  want: {MEMORY}"),
        ("memory: 1.5G", f"memory: found '1.5G'\n  want: {MEMORY}"),
        ("memory: 2K", f"memory: found '2K'\n  want: {MEMORY}"),
        ("shared_memory: lots", f"shared_memory: found 'lots'\n  want: {MEMORY}"),
        ("memory: {train: {a: b}}", f"memory: train: found None\n  want: {MEMORY}"),
        ("memory: {training: 8G}", f"memory: found 'training'\n  want: {LISTED}"),
        ("memory_requests: 20G", "memory_requests: validate: found '20G'\n  want: at most its limit, 16G (memory)"),
        (
            "{memory: {export: 4G}, memory_requests: {export: 5G}}",
            "memory_requests: export: found '5G'\n  want: at most its limit, 4G (memory)",
        ),
        ("cpu_request: two", "cpu_request: found 'two'\n  want: CPUs as Kubernetes writes them, e.g. \"2\", 500m; "),
        ("retries: -1", "retries: found -1\n  want: a number from 0 to 10"),
        ("retries: 11", "retries: found 11\n  want: a number from 0 to 10"),
        ("retries: true", "retries: found True\n  want: a whole number"),
        ("timeouts: {trian: 60}", f"timeouts: found 'trian'\n  want: {LISTED}"),
        ("timeouts: {train: 1h}", f"timeouts: train: found '1h'\n  want: {SECONDS}"),
        ("pull_secrets: [My_Registry]", f"pull_secrets: found 'My_Registry'\n  want: {NAME}"),
        ("secrets: {my_secret: {a: A}}", f"secrets: found 'my_secret'\n  want: {NAME}"),
        ("secrets: {mine: PASSWORD}", "secrets: mine: found 'PASSWORD'\n  want: key: VARIABLE, e.g. "),
        ("config_maps: {mine: {a: 1}}", "config_maps: mine: found {'a': 1}\n  want: key: VARIABLE, e.g. "),
        (
            "node_selector: {gpu: true}",
            'node_selector: gpu: found True\n  want: a text, e.g. "true" in quotation marks',
        ),
        (
            "tolerations: [{key: a, seconds: 3}]",
            "tolerations: found {'key': 'a', 'seconds': 3}\n"
            "  want: some of effect, key, operator, toleration_seconds, value",
        ),
        ("timeout_s: 0", f"timeout_s: found 0\n  want: {SECONDS}"),
    ],
)
def test_what_would_make_an_invalid_pod_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(PipelineError) as caught:
        read_cluster(file)
    assert str(caught.value).startswith(f"{file}: {wanted}")


@pytest.mark.parametrize(
    "text",
    [
        "{data_claim: one, work_claim: ''}",
        f"data_claim: {63 * 'a'}",
        "{data_path: /work, work_path: /data}",
        "{memory: 8Gi, memory_requests: 8589934592}",
        "cpu_request: ''",
        "cpu_request: '1.5'",
        "retries: 0",
        "secrets: {my.secret: {}}",
        "",
    ],
)
def test_what_makes_a_valid_pod_is_taken(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text.replace("8589934592", "'8589934592'"))
    assert read_cluster(file) == (yaml.safe_load(file.read_text()) or {})
