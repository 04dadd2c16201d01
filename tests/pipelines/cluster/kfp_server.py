"""A loopback server that speaks Kubeflow Pipelines' v2beta1 API and is strict about it.

Paths, methods, query parameters, headers and bodies are checked; a body is held to the models of the generated client.
What is wrong is answered with 400 and kept in `faults`. `script` is the run's life: a state of the run and of its
stages (see kfp_answers.py) for each time it is asked for. What is served beside this API is in `beside`.
"""

import json
import re
import threading
from collections.abc import Mapping
from email import message_from_bytes
from http.server import ThreadingHTTPServer
from itertools import groupby
from typing import Any
from urllib.parse import unquote_plus

import kfp_server_api
import yaml

from tests.pipelines.cluster.kfp_answers import task_details
from tests.pipelines.cluster.kfp_requests import API, Refusal, Requests, now
from tests.pipelines.cluster.kfp_web import Beside

Moment = tuple[str, Mapping[str, str]]
"""State of the run, and of its stages by name."""


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
        self.recurring: dict[str, dict[str, Any]] = {}
        self.beside = Beside()
        self.asked = 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(Requests):
    """What is answered of the v2beta1 API."""

    server: KfpServer

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
            case ("GET", "runs"):
                return self._all_runs()
            case ("GET", "runs", run):
                return self._run(run)
            case ("POST", "runs", run):
                return self._act_on(*run.split(":"))
            case ("GET" | "POST" | "DELETE", "recurringruns", *which):
                return self._recurring_runs(*which)
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
        escaped = self.query["filter"]  # KFP unescapes it once more (list_request_util.go), and as Go does
        if re.search(r"%(?![0-9a-fA-F]{2})", escaped):
            raise Refusal(400, f"failed to parse valid filter from {escaped!r}: invalid URL escape")
        (predicate,) = json.loads(unquote_plus(escaped))["predicates"]
        if set(predicate) != {"operation", "key", "stringValue"} or predicate["operation"] != 1:
            raise Refusal(400, f"filter {predicate}")
        wanted = [row for row in self.server.experiments if row[predicate["key"]] == predicate["stringValue"]]
        return self._paged("experiments", wanted)

    def _new_experiment(self) -> dict[str, Any]:
        body = self._json(kfp_server_api.V2beta1Experiment)
        self._same_namespace(body.get("namespace"))
        if body["display_name"] in {row["display_name"] for row in self.server.experiments}:
            raise Refusal(409, f"The name {body['display_name']} already exists")
        made = {**body, "experiment_id": f"experiment-{len(self.server.experiments) + 1}", "created_at": now()}
        self.server.experiments.append(made)
        return made

    def _new_run(self) -> dict[str, Any]:
        body = self._submitted(kfp_server_api.V2beta1Run)
        run_id = f"run-{len(self.server.runs) + 1}"
        self.server.runs[run_id] = {**body, "run_id": run_id, "created_at": now(), "state": "PENDING"}
        return self.server.runs[run_id]

    def _submitted(self, model: Any) -> dict[str, Any]:
        body = self._json(model)
        if body["experiment_id"] not in {row["experiment_id"] for row in self.server.experiments}:
            raise Refusal(400, "no such experiment")
        reference = body["pipeline_version_reference"]
        ids = {(row["pipeline_id"], row["pipeline_version_id"]) for row in self.server.versions}
        if (reference["pipeline_id"], reference["pipeline_version_id"]) not in ids:
            raise Refusal(400, "no such version")
        self._check_parameters(body["runtime_config"]["parameters"])
        return body

    def _all_runs(self) -> dict[str, Any]:
        self._only("page_token", "page_size", "sort_by", "namespace")
        self._same_namespace(self.query.get("namespace"))
        if self.query.get("sort_by") != "created_at desc":
            raise Refusal(400, "not sorted")
        state = {"state": self._moment()[0]} if self.server.asked else {}
        return self._paged("runs", [{**run, **state} for run in reversed(self.server.runs.values())])

    def _act_on(self, run_id: str, verb: str) -> dict[str, Any]:
        """Terminates or retries a run, which goes on as the script says."""
        over = self._moment()[0] in {"SUCCEEDED", "FAILED", "CANCELED"}
        if run_id not in self.server.runs or verb not in {"terminate", "retry"} or over != (verb == "retry"):
            raise Refusal(400, f"Failed to {verb} a run {run_id}. Row not found")
        return {}

    def _recurring_runs(self, which: str | None = None) -> dict[str, Any]:
        rows = self.server.recurring
        if self.command == "DELETE":
            del rows[str(which)]
            return {}
        if self.command == "GET":
            self._only("page_token", "page_size", "experiment_id")
            return self._paged("recurringRuns", list(rows.values()))
        body = self._submitted(kfp_server_api.V2beta1RecurringRun)
        if len(body["trigger"]["cron_schedule"]["cron"].split()) != 6 or not 1 <= int(body["max_concurrency"]) <= 10:
            raise Refusal(400, "trigger or max_concurrency")
        made = {**body, "recurring_run_id": f"recurring-{len(self.server.calls)}"}
        rows[made["recurring_run_id"]] = made
        return made

    def _check_parameters(self, given: Mapping[str, Any]) -> None:
        declared = next(iter(yaml.safe_load_all(self.server.uploaded)))["root"]["inputDefinitions"]["parameters"]
        kinds = {"STRING": str, "NUMBER_INTEGER": int}
        for name, value in given.items():
            if name not in declared or not isinstance(value, kinds[declared[name]["parameterType"]]):
                raise Refusal(400, f"parameter {name} is {value!r}")

    def _moment(self) -> Moment:
        return self.server.script[min(self.server.asked, len(self.server.script)) - 1]

    def _run(self, run_id: str) -> dict[str, Any]:
        self._only()
        if self.server.failures:
            raise Refusal(self.server.failures.pop(0), "upstream connect error")
        if run_id not in self.server.runs:
            raise Refusal(404, f"Run {run_id} not found")
        self.server.asked = min(self.server.asked + 1, len(self.server.script))
        state, stages = self._moment()
        past = [before for before, _ in groupby(moment[0] for moment in self.server.script[: self.server.asked])]
        over = {"finished_at": now()} if state in {"SUCCEEDED", "FAILED", "CANCELED"} else {}
        plugins = {"mlflow": {"entries": {"run_url": {"value": "http://mlflow/#/run"}}, "state": "PLUGIN_SUCCEEDED"}}
        run = {
            **self.server.runs[run_id],
            "state": state,
            "state_history": [{"update_time": now(), "state": before} for before in past],
            "run_details": {"task_details": task_details(stages)},
            **over,
        }
        return run | ({"plugins_output": plugins} if run.get("plugins_input") else {})
