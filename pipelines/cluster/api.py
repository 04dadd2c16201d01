"""The calls of Kubeflow Pipelines' API (v2beta1) that a run needs, by the client that is generated from the API.

`kfp.Client` is not used on purpose: it mixes in settings of the user's home folder, warns at every use, cannot give an
MLflow experiment to KFP's plugin, and waits for ever for a run that was cancelled.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.cluster.endpoint import FILES, Endpoint
from pipelines.cluster.refusals import told_plainly
from reid.errors import PipelineError

PAGE = 100
TIMEOUT_S = 60
EQUALS = 1
"""The operation's number in a filter of the API."""
CONFLICT = 409


class Cluster:
    """Kubeflow Pipelines behind an endpoint. Every call raises PipelineError, Unreachable if a repeat may help."""

    def __init__(self, endpoint: Endpoint) -> None:
        import kfp_server_api as api  # noqa: PLC0415 - half a second

        self.endpoint, self._api = endpoint, api
        settings = api.Configuration(host=endpoint.url)
        settings.ssl_ca_cert = endpoint.ca_cert or None
        settings.retries = False  # one try a call; the caller decides whether to repeat it
        if endpoint.token or endpoint.token_file:
            settings.api_key_prefix["authorization"] = "Bearer"
            settings.api_key["authorization"] = endpoint.token or "read at each call"
        if endpoint.token_file:
            settings.refresh_api_key_hook = self._read_token
        self._client = api.ApiClient(settings, cookie=endpoint.cookies or None)
        self._pipelines = api.PipelineServiceApi(self._client)
        self._uploads = api.PipelineUploadServiceApi(self._client)
        self._experiments = api.ExperimentServiceApi(self._client)
        self._runs = api.RunServiceApi(self._client)
        self._recurring = api.RecurringRunServiceApi(self._client)
        self._where = {"namespace": endpoint.namespace} if endpoint.namespace else {}

    def _read_token(self, settings: Any) -> None:
        try:
            token = Path(self.endpoint.token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise PipelineError(
                f"KFP_TOKEN_FILE: found {self.endpoint.token_file!r}, {error.strerror}\n"
                f"  want: {FILES['KFP_TOKEN_FILE']}"
            ) from None
        settings.api_key["authorization"] = token

    def _calling(self) -> AbstractContextManager[None]:
        return told_plainly(self._api.ApiException, self.endpoint.shown)

    def ask(self, url: str, *, body: bytes | None = None, kind: str = "application/json") -> tuple[str, bytes] | None:
        """Content type and body of an answer that is not a part of the v2beta1 API; None if there is no such answer.

        What is asked for like this is never needed, so that nothing is raised. With a body, it is a POST of its kind.
        """
        import urllib3  # noqa: PLC0415 - with kfp_server_api

        headers = {"Accept": kind, **({"Content-Type": kind} if body is not None else {})}
        try:
            self._client.update_params_for_auth(headers, [], ["Bearer"])
            if self.endpoint.cookies:
                headers["Cookie"] = self.endpoint.cookies
            method = "GET" if body is None else "POST"
            answer = self._client.rest_client.pool_manager.request(
                method, url, body=body, headers=headers, timeout=TIMEOUT_S, retries=False
            )
        except (urllib3.exceptions.HTTPError, PipelineError):
            return None
        return (answer.headers.get("Content-Type", ""), answer.data) if answer.status == 200 else None

    def _found_or_made(self, find: Callable[[], Any], make: Callable[[], Any]) -> Any:
        """What `find` returns, else what `make` makes; another command may make the same at the same moment."""
        with self._calling():
            found = find()
            if found is not None:
                return found
            try:
                return make()
            except self._api.ApiException as error:
                found = find() if error.status == CONFLICT else None
                if found is None:
                    raise
                return found

    def pipeline(self, name: str, *, description: str) -> str:
        """The id of the pipeline of this name, which is made if there is none."""

        def find() -> Any:
            try:
                return self._pipelines.pipeline_service_get_pipeline_by_name(
                    name, **self._where, _request_timeout=TIMEOUT_S
                )
            except self._api.ApiException as error:
                if error.status != 404:
                    raise
                return None

        body = self._api.V2beta1Pipeline(name=name, display_name=name, description=description, **self._where)
        make = self._pipelines.pipeline_service_create_pipeline
        return str(self._found_or_made(find, lambda: make(body, _request_timeout=TIMEOUT_S)).pipeline_id)

    def version(self, pipeline_id: str, name: str, file: Path) -> str:
        """The id of the version of this name; the file is uploaded if there is none."""

        def find() -> Any:
            versions = self._pages(
                self._pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", pipeline_id
            )
            return next((version for version in versions if version.display_name == name), None)

        made = self._found_or_made(
            find,
            lambda: self._uploads.upload_pipeline_version(
                str(file), name=name, pipelineid=pipeline_id, _request_timeout=TIMEOUT_S
            ),
        )
        return str(made.pipeline_version_id)

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, which is made if there is none.

        The server unescapes a filter once more after HTTP has, so that it is escaped here once more, too.
        """
        wanted = {"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": name}]}
        filtered = {"filter": quote(json.dumps(wanted), safe=""), **self._where}

        def find() -> Any:
            found = self._pages(self._experiments.experiment_service_list_experiments, "experiments", **filtered)
            return next((experiment for experiment in found if experiment.display_name == name), None)

        body = self._api.V2beta1Experiment(display_name=name, **self._where)
        make = self._experiments.experiment_service_create_experiment
        return str(self._found_or_made(find, lambda: make(body, _request_timeout=TIMEOUT_S)).experiment_id)

    def _pages(self, call: Callable[..., Any], key: str, *arguments: Any, **options: Any) -> Iterator[Any]:
        """The rows of all pages of a list."""
        token = ""
        while True:
            page = call(*arguments, page_token=token, page_size=PAGE, _request_timeout=TIMEOUT_S, **options)
            yield from getattr(page, key) or ()
            token = page.next_page_token
            if not token:
                return

    def _submission(
        self, name: str, *, experiment_id: str, pipeline_id: str, version_id: str, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The fields that a run and a recurring run share."""
        return {
            "display_name": name,
            "experiment_id": experiment_id,
            "pipeline_version_reference": self._api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline_id, pipeline_version_id=version_id
            ),
            "runtime_config": self._api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            "service_account": self.endpoint.service_account or None,
        }

    def _plugins(self, experiment: str) -> dict[str, Any] | None:
        return {"mlflow": {"experiment_name": experiment}} if self.endpoint.mlflow_plugin else None

    def start(self, name: str, *, mlflow_experiment: str, **submitted: Any) -> str:
        """Starts a run of a version and returns its id. `submitted`: as `_submission` takes it."""
        fields = self._submission(name, **submitted)
        with self._calling():
            body = self._api.V2beta1Run(**fields, plugins_input=self._plugins(mlflow_experiment))
            return str(self._runs.run_service_create_run(body, _request_timeout=TIMEOUT_S).run_id)

    def repeat(self, name: str, *, cron: str, mlflow_experiment: str, **submitted: Any) -> int:
        """Makes a recurring run, in place of those of its name in its experiment; returns how many it replaces.

        `cron` has six fields, the first of which is the second; `submitted` is as `_submission` takes it.
        """
        fields = self._submission(name, **submitted)
        calls = self._recurring
        with self._calling():
            listed = self._pages(
                calls.recurring_run_service_list_recurring_runs,
                "recurring_runs",
                experiment_id=submitted["experiment_id"],
            )
            before = [row.recurring_run_id for row in listed if row.display_name == name]
            body = self._api.V2beta1RecurringRun(
                **fields,
                plugins_input=self._plugins(mlflow_experiment),
                trigger=self._api.V2beta1Trigger(cron_schedule=self._api.V2beta1CronSchedule(cron=cron)),
                max_concurrency="1",
                no_catchup=True,
                mode="ENABLE",
            )
            calls.recurring_run_service_create_recurring_run(body, _request_timeout=TIMEOUT_S)
            for run_id in before:
                calls.recurring_run_service_delete_recurring_run(run_id, _request_timeout=TIMEOUT_S)
        return len(before)

    def run(self, run_id: str) -> Any:
        """The run as it is now, a V2beta1Run."""
        with self._calling():
            return self._runs.run_service_get_run(run_id, _request_timeout=TIMEOUT_S)

    def runs(self) -> Iterator[Any]:
        """All runs, the newest first."""
        with self._calling():
            yield from self._pages(self._runs.run_service_list_runs, "runs", sort_by="created_at desc", **self._where)

    def terminate(self, run_id: str) -> None:
        """Ends a run that goes on."""
        with self._calling():
            self._runs.run_service_terminate_run(run_id, _request_timeout=TIMEOUT_S)

    def retry(self, run_id: str) -> None:
        """Runs again what failed in a run that is over."""
        with self._calling():
            self._runs.run_service_retry_run(run_id, _request_timeout=TIMEOUT_S)
