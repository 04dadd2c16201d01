"""A server on loopback that answers as the API server of Kubernetes 1.36 with Kubeflow Trainer 2.3.0.

It holds objects and serves them; what the controllers do with them (pods, conditions) is told by the test.
"""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.components.nodes.own_pod import POD, own_pod

Object = dict[str, Any]
CORE, TRAINER = "/api/v1/namespaces/kubeflow", "/apis/trainer.kubeflow.org/v1alpha1"
JOBS = f"{TRAINER}/namespaces/kubeflow/trainjobs"
ACCOUNT = "system:serviceaccount:kubeflow:reid-pipeline"


def runtime(name: str, kind: str) -> Object:
    """As manifests/base/runtimes/torch_distributed.yaml of Trainer 2.3.0."""
    container = {"name": "node", "image": "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"}
    step = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    template = {"metadata": step, "spec": {"template": {"spec": {"containers": [container]}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": {"replicatedJobs": [{"name": "node", "template": template}]}},
        },
    }


class KubernetesApi:
    """The server and what it holds; `calls` has every request but those that only look."""

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {POD: own_pod()}
        self.claims = {"reid-data": ["ReadOnlyMany"], "reid-work": ["ReadWriteMany"]}
        self.runtimes = {("clustertrainingruntimes", "torch-distributed")}
        self.jobs: dict[str, Object] = {}
        self.logs: dict[str, list[str]] = {}
        self.ended: set[str] = set()
        """Pods whose container has ended, so that a followed log ends."""
        self.installed, self.away = True, False
        self.forbidden: set[str] = set()
        """Rights that the account does not have: "create trainjobs"."""
        self.calls: list[str] = []
        self.created: Callable[[Object], None] = lambda job: None
        self._looks = 0
        self._sent: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def seen(self, *logs: str) -> None:
        """Waits until the stage has looked at all objects as they are now, and was sent all lines of these pods."""
        looks = self._looks + 6  # a look may be under way; each one asks for the job and for its pods
        until = time.monotonic() + 60
        while self._looks < looks or any(self._sent.get(pod, 0) < len(self.logs[pod]) for pod in logs):
            assert time.monotonic() < until, "the stage looks no more"
            time.sleep(0.002)

    def say(self, pod: str, *lines: str) -> None:
        """Adds lines to a pod's log, each with the time that the kubelet writes before it."""
        for line in lines:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
            self.logs.setdefault(pod, []).append(f"{now}123Z {line}")

    def start_node(self, job: str, number: int, *, suffix: str = "aaaaa", **status: Any) -> str:
        """Adds the pod of a node, by default one that runs; returns its name."""
        name = f"{job}-node-0-{number}-{suffix}"
        self.pods[name] = {
            "metadata": {
                "name": name,
                "creationTimestamp": datetime.now(UTC).strftime(f"%Y-%m-%dT%H:%M:%S.{len(self.pods):06d}Z"),
                "labels": {
                    "jobset.sigs.k8s.io/jobset-name": job,
                    "jobset.sigs.k8s.io/replicatedjob-name": "node",
                    "batch.kubernetes.io/job-completion-index": str(number),
                },
            },
            "spec": {"nodeName": f"gpu-{number}"},
            "status": {"phase": "Running"},
        }
        self.set_state(name, **(status or {"state": {"running": {}}}))
        return name

    def set_state(self, pod: str, *, conditions: Any = (), **state: Any) -> None:
        """Sets the state of a pod's container, as its status shows it."""
        status = {"conditions": list(conditions)}
        if state:
            status["containerStatuses"] = [{"name": "node", "restartCount": 0, **state}]
        self.pods[pod]["status"] = status

    def end_job(self, name: str, kind: str, message: str = "jobset completed successfully") -> None:
        """Gives a job the condition with which it ends, and ends its pods."""
        self.ended |= {pod for pod in self.pods if pod.startswith(name)}
        condition = {"type": kind, "status": "True", "reason": "JobSetEnded", "message": message}
        self.jobs[name]["status"] = {"conditions": [condition]}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
                if path.endswith("/log"):
                    return api._serve_log(self, path.split("/")[-2], query)
                self._answer(*api._get(path, query))
                api._looks += 1
                return None

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(*api._post(urlsplit(self.path).path, body))

            def do_DELETE(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._answer(*api._delete(urlsplit(self.path).path))

            def _answer(self, status: int, body: Object | str) -> None:
                raw = body if isinstance(body, str) else json.dumps(body)
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(raw.encode())))
                self.end_headers()
                self.wfile.write(raw.encode())

        return Handler

    def _get(self, path: str, query: dict[str, list[str]]) -> tuple[int, Object | str]:
        kind, _, name = path.removeprefix(CORE).removeprefix(TRAINER).strip("/").rpartition("/")
        kind = kind.rpartition("/")[2]
        if path == "/api/v1/namespaces/kubeflow-system/configmaps/kubeflow-trainer-public":
            return 200, {"data": {"kubeflow_trainer_version": "v2.3.0"}}  # all may read it
        if refused := self._refused(path, "list" if path == f"{CORE}/pods" else "get", kind or name, name):
            return refused
        if path == f"{CORE}/pods":
            job = query["labelSelector"][0].partition(",")[0].partition("=")[2]
            label = "jobset.sigs.k8s.io/jobset-name"
            return 200, {"items": [pod for pod in self.pods.values() if pod["metadata"]["labels"].get(label) == job]}
        if kind == "persistentvolumeclaims" and name in self.claims:
            return 200, {"spec": {}, "status": {"phase": "Bound", "accessModes": self.claims[name]}}
        if (kind, name) in self.runtimes:
            return 200, runtime(name, "TrainingRuntime" if kind == "trainingruntimes" else "ClusterTrainingRuntime")
        found = {"pods": self.pods, "trainjobs": self.jobs}.get(kind, {}).get(name)
        return (200, found) if found else _status(404, "NotFound", f'{kind} "{name}" not found')

    def _post(self, path: str, job: Object) -> tuple[int, Object | str]:
        assert path == JOBS
        name = job["metadata"]["name"]
        if refused := self._refused(path, "create", "trainjobs", name):
            return refused
        self.calls.append(f"create {name}")
        if name in self.jobs:
            return _status(409, "AlreadyExists", f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        job["metadata"] |= {"namespace": "kubeflow", "uid": str(time.monotonic_ns())}
        self.jobs[name] = job
        threading.Thread(target=self._play, args=(job,), daemon=True).start()
        return 201, job

    def _play(self, job: Object) -> None:
        """Plays the controllers; a fault of theirs ends the job, so that the stage does not wait for ever."""
        try:
            self.created(job)
        except Exception as error:
            self.end_job(job["metadata"]["name"], "Failed", f"the test's controllers: {error!r}")
            raise

    def _delete(self, path: str) -> tuple[int, Object | str]:
        name = path.rpartition("/")[2]
        if refused := self._refused(path, "delete", "trainjobs", name):
            return refused
        self.calls.append(f"delete {name}")
        if name not in self.jobs:
            return _status(404, "NotFound", f'trainjobs.trainer.kubeflow.org "{name}" not found')
        self.jobs[name]["metadata"]["deletionTimestamp"] = "2026-11-27T09:00:00Z"
        self.pods = {pod: held for pod, held in self.pods.items() if not pod.startswith(name)}
        threading.Timer(0.05, self.jobs.pop, args=(name, None)).start()
        return 200, {"kind": "Status", "status": "Success"}

    def _refused(self, path: str, verb: str, kind: str, name: str) -> tuple[int, Object | str] | None:
        if self.away:
            return _status(503, "ServiceUnavailable", "apiserver is shutting down")
        if path.startswith(TRAINER) and not self.installed:
            return 404, "404 page not found\n"
        if f"{verb} {kind}" in self.forbidden:
            message = f'{kind} "{name}" is forbidden: User "{ACCOUNT}" cannot {verb} resource "{kind}"'
            return _status(403, "Forbidden", message)
        return None

    def _serve_log(self, handler: Any, pod: str, query: dict[str, list[str]]) -> None:
        if refused := self._refused("", "get", "pods/log", pod):
            return handler._answer(*refused)
        if pod not in self.logs:
            message = f'container "node" in pod "{pod}" is waiting to start: ContainerCreating'
            return handler._answer(*_status(400, "BadRequest", message))
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        sent = 0
        while True:
            over = pod in self.ended or "follow" not in query or query["follow"] == ["False"]
            for line in self.logs[pod][sent:]:
                raw = f"{line}\n".encode()
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
                sent += 1
                self._sent[pod] = max(sent, self._sent.get(pod, 0))
            if over and sent == len(self.logs[pod]):
                break
            time.sleep(0.005)
        handler.wfile.write(b"0\r\n\r\n")
        return None


def _status(code: int, reason: str, message: str) -> tuple[int, Object]:
    return code, {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}
