"""A loopback server that speaks Kubeflow Pipelines' v2beta1 API and is strict about it.

Paths, methods, query parameters, headers and bodies are checked; a body is held to the models of the generated client.
What is wrong is answered with 400 and kept in `faults`. `script` is the run's life: a state of the run and of its tasks
for each time it is asked for.
"""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api
import yaml

API = "/apis/v2beta1"
Moment = tuple[str, Mapping[str, str]]
"""State of the run, and of its tasks by name."""


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class KfpServer(ThreadingHTTPServer):
    """One server; its state is in its attributes."""

    daemon_threads = True

    def __init__(self, script: list[Moment], *, page: int = 2, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.page, self.wanted = script, page, dict(headers or {})
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.calls: list[str] = []
        self.faults: list[str] = []
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.namespace: str | None = None
        self.failures: list[int] = []
        """Statuses that the next calls for a run get."""
        self.uploaded = ""
        self.asked = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Refusal(Exception):
    """A status and what is wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def held_to(model: Any, body: Mapping[str, Any]) -> None:
    """Refuses a body with fields or types that the model of the API does not have."""
    known = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
    for name, value in body.items():
        if name not in known:
            raise Refusal(400, f"{model.__name__} has no field {name!r}")
        kind = known[name]
        if kind in {"str", "int", "bool"} and not isinstance(value, {"str": str, "int": int, "bool": bool}[kind]):
            raise Refusal(400, f"{model.__name__}.{name}: {value!r} is no {kind}")
        if kind.startswith("dict(") and not isinstance(value, dict):
            raise Refusal(400, f"{model.__name__}.{name}: {value!r} is no object")
        if hasattr(kfp_server_api, kind) and isinstance(value, dict):
            held_to(getattr(kfp_server_api, kind), value)


class Handler(BaseHTTPRequestHandler):
    server: KfpServer

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.raw = self.rfile.read(length)
        place = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(place.query, keep_blank_values=True).items()}
        path = unquote(place.path)
        self.server.calls.append(f"{self.command} {path}")
        try:
            self._check_headers()
            status, body = 200, self._route(path)
        except Refusal as error:
            status, body = error.status, {"error": str(error), "message": str(error), "code": 3}
            if status == 400:
                self.server.faults.append(f"{self.command} {path}: {error}")
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _check_headers(self) -> None:
        for name, value in self.server.wanted.items():
            if self.headers.get(name) != value:
                raise Refusal(401, f"{name}: {self.headers.get(name)!r}")
        if "application/json" not in self.headers.get("Accept", ""):
            raise Refusal(400, "Accept is not application/json")

    def _json(self, model: Any) -> dict[str, Any]:
        if self.headers.get("Content-Type") != "application/json":
            raise Refusal(400, f"Content-Type {self.headers.get('Content-Type')!r}")
        body = json.loads(self.raw)
        held_to(model, body)
        return dict(body)

    def _only(self, *names: str) -> None:
        unknown = set(self.query) - set(names)
        if unknown:
            raise Refusal(400, f"unknown query parameters {sorted(unknown)}")

    def _same_namespace(self, given: str | None) -> None:
        if given != self.server.namespace:
            raise Refusal(400, f"namespace {given!r}")

    def _paged(self, key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        start = int(self.query.get("page_token") or 0)
        if int(self.query.get("page_size", 0)) < 1:
            raise Refusal(400, "page_size is missing")
        end = start + self.server.page
        more = {"next_page_token": str(end)} if end < len(rows) else {}
        return {key: rows[start:end], "total_size": len(rows), **more}

    def _route(self, path: str) -> dict[str, Any]:  # noqa: PLR0911 - one for each path
        if not path.startswith(API + "/"):
            raise Refusal(404, "no such path")
        parts = path.removeprefix(API + "/").split("/")
        match (self.command, *parts):
            case ("GET", "pipelines", "names", name):
                return self._pipeline_by_name(name)
            case ("POST", "pipelines"):
                return self._new_pipeline()
            case ("GET", "pipelines", pipeline, "versions"):
                self._only("page_token", "page_size")
                return self._paged(
                    "pipeline_versions", [row for row in self.server.versions if row["pipeline_id"] == pipeline]
                )
            case ("POST", "pipelines", "upload_version"):
                return self._upload()
            case ("GET", "experiments"):
                return self._experiments()
            case ("POST", "experiments"):
                return self._new_experiment()
            case ("POST", "runs"):
                return self._new_run()
            case ("GET", "runs", run):
                return self._run(run)
        raise Refusal(405, "no such method")

    def _pipeline_by_name(self, name: str) -> dict[str, Any]:
        self._only("namespace")
        self._same_namespace(self.query.get("namespace"))
        if name not in self.server.pipelines:
            raise Refusal(404, f"Pipeline {name} not found")
        return self.server.pipelines[name]

    def _new_pipeline(self) -> dict[str, Any]:
        body = self._json(kfp_server_api.V2beta1Pipeline)
        self._same_namespace(body.get("namespace"))
        made = {**body, "pipeline_id": f"pipeline-{len(self.server.pipelines) + 1}", "created_at": now()}
        self.server.pipelines[body["name"]] = made
        return made

    def _upload(self) -> dict[str, Any]:
        self._only("name", "pipelineid")
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/form-data"):
            raise Refusal(400, f"Content-Type {kind!r}")
        form = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + self.raw)
        (part,) = form.get_payload()
        if part.get_param("name", header="content-disposition") != "uploadfile":
            raise Refusal(400, "the form's field is not uploadfile")
        self.server.uploaded = part.get_payload(decode=True).decode()
        documents = list(yaml.safe_load_all(self.server.uploaded))
        if "pipelineInfo" not in documents[0] or "platforms" not in documents[1]:
            raise Refusal(400, "not a compiled pipeline with its platform spec")
        made = {
            "pipeline_id": self.query["pipelineid"],
            "pipeline_version_id": f"version-{len(self.server.versions) + 1}",
            "display_name": self.query["name"],
            "name": self.query["name"],
            "created_at": now(),
        }
        self.server.versions.append(made)
        return made

    def _experiments(self) -> dict[str, Any]:
        self._only("filter", "page_size", "page_token", "namespace")
        self._same_namespace(self.query.get("namespace"))
        (predicate,) = json.loads(self.query["filter"])["predicates"]
        if set(predicate) != {"operation", "key", "stringValue"} or predicate["operation"] != 1:
            raise Refusal(400, f"filter {predicate}")
        wanted = [row for row in self.server.experiments if row[predicate["key"]] == predicate["stringValue"]]
        return self._paged("experiments", wanted)

    def _new_experiment(self) -> dict[str, Any]:
        body = self._json(kfp_server_api.V2beta1Experiment)
        self._same_namespace(body.get("namespace"))
        made = {**body, "experiment_id": f"experiment-{len(self.server.experiments) + 1}", "created_at": now()}
        self.server.experiments.append(made)
        return made

    def _new_run(self) -> dict[str, Any]:
        body = self._json(kfp_server_api.V2beta1Run)
        if body["experiment_id"] not in {row["experiment_id"] for row in self.server.experiments}:
            raise Refusal(400, "no such experiment")
        reference = body["pipeline_version_reference"]
        ids = {(row["pipeline_id"], row["pipeline_version_id"]) for row in self.server.versions}
        if (reference["pipeline_id"], reference["pipeline_version_id"]) not in ids:
            raise Refusal(400, "no such version")
        self._check_parameters(body["runtime_config"]["parameters"])
        run_id = f"run-{len(self.server.runs) + 1}"
        self.server.runs[run_id] = {**body, "run_id": run_id, "created_at": now(), "state": "PENDING"}
        return self.server.runs[run_id]

    def _check_parameters(self, given: Mapping[str, Any]) -> None:
        declared = next(iter(yaml.safe_load_all(self.server.uploaded)))["root"]["inputDefinitions"]["parameters"]
        kinds = {"STRING": str, "NUMBER_INTEGER": int}
        for name, value in given.items():
            if name not in declared or not isinstance(value, kinds[declared[name]["parameterType"]]):
                raise Refusal(400, f"parameter {name} is {value!r}")

    def _run(self, run_id: str) -> dict[str, Any]:
        self._only()
        if self.server.failures:
            raise Refusal(self.server.failures.pop(0), "upstream connect error")
        if run_id not in self.server.runs:
            raise Refusal(404, f"Run {run_id} not found")
        moment = min(self.server.asked, len(self.server.script) - 1)
        self.server.asked += 1
        state, tasks = self.server.script[moment]
        details = [{"display_name": "root-driver", "state": "SUCCEEDED", "create_time": now()}]
        for name, task_state in tasks.items():
            error = {"error": {"code": 13, "message": "exit status 2"}} if task_state == "FAILED" else {}
            details.append({"display_name": name, "state": task_state, "create_time": now(), **error})
        over = {"finished_at": now()} if state in {"SUCCEEDED", "FAILED", "CANCELED"} else {}
        plugins = {"mlflow": {"entries": {"run_url": {"value": "http://mlflow/#/run"}}, "state": "PLUGIN_SUCCEEDED"}}
        run = {**self.server.runs[run_id], "state": state, "run_details": {"task_details": details}, **over}
        return run | ({"plugins_output": plugins} if run.get("plugins_input") else {})
