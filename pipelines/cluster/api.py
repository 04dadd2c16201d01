"""The calls of Kubeflow Pipelines' API (v2beta1) that a run needs, by the client that is generated from the API.

`kfp.Client` is not used on purpose: it mixes in settings of the user's home folder, warns at every use, cannot give an
MLflow experiment to KFP's plugin, and waits for ever for a run that was cancelled.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.errors import PipelineError

PAGE = 100
TIMEOUT_S = 60
EQUALS = 1
"""The operation's number in a filter of the API."""
FILES = {
    "KFP_CA_CERT": "the certificate (PEM) of the authority that signed the endpoint's certificate",
    "KFP_TOKEN_FILE": "a file that holds a token",
}
"""Variables that name files -> what the file has to hold."""
ITS_API = "the address of its API (v2beta1) in KFP_ENDPOINT"
READY = f"{ITS_API}, and its server up"


class Unreachable(PipelineError):
    """The endpoint does not answer, or answers with a server error; asking again may help."""


@dataclass(frozen=True)
class Endpoint:
    """Where a cluster's API is, and the credentials for it, from the environment: `ps` does not show them there."""

    url: str
    ui_url: str = ""
    """The address of the web pages; "": the same as url."""
    namespace: str = ""
    """The namespace, on a multi-user installation."""
    service_account: str = ""
    """The service account of the stages; "": KFP's default."""
    token: str = ""
    token_file: str = ""
    """A file that holds the token; it is read for each call, for tokens are renewed."""
    cookies: str = ""
    ca_cert: str = ""
    mlflow_plugin: bool = False
    """Whether KFP's MLflow plugin is on."""

    @classmethod
    def from_environment(cls) -> "Endpoint":
        """Reads KFP_ENDPOINT and the other KFP_… variables. Raises PipelineError if it is not set or no address."""
        url = os.environ.get("KFP_ENDPOINT", "")
        if not url.startswith(("http://", "https://")):
            raise PipelineError(f"KFP_ENDPOINT: found {url!r}\n  want: the address of Kubeflow Pipelines, https://…")
        for name, wanted in FILES.items():
            path = os.environ.get(name)
            if path and not Path(path).is_file():
                raise PipelineError(f"{name}: found {path!r}, no such file\n  want: {wanted}")
        return cls(
            url=url.rstrip("/"),
            ui_url=os.environ.get("KFP_UI", "").rstrip("/"),
            namespace=os.environ.get("KFP_NAMESPACE", ""),
            service_account=os.environ.get("KFP_SERVICE_ACCOUNT", ""),
            token=os.environ.get("KFP_TOKEN", ""),
            token_file=os.environ.get("KFP_TOKEN_FILE", ""),
            cookies=os.environ.get("KFP_COOKIES", ""),
            ca_cert=os.environ.get("KFP_CA_CERT", ""),
            mlflow_plugin=os.environ.get("KFP_MLFLOW_PLUGIN", "") not in {"", "0"},
        )

    def run_url(self, run_id: str) -> str:
        """The page of a run."""
        return f"{self.ui_url or self.url}/#/runs/details/{run_id}"


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
        client = api.ApiClient(settings, cookie=endpoint.cookies or None)
        self._pipelines, self._uploads = api.PipelineServiceApi(client), api.PipelineUploadServiceApi(client)
        self._experiments, self._runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
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

    @contextmanager
    def _calling(self) -> Iterator[None]:
        import urllib3  # noqa: PLC0415 - with kfp_server_api

        url = self.endpoint.url
        try:
            yield
        except self._api.ApiException as error:
            said = f"{error.status} {error.reason}{_message(error.body)}"
            if error.status in {401, 403}:
                raise PipelineError(
                    f"KFP at {url}: refused: {said}\n  want: KFP_TOKEN, KFP_TOKEN_FILE or KFP_COOKIES of somebody who"
                    " may run pipelines there; KFP_NAMESPACE on a multi-user installation"
                ) from error
            if error.status in {0, 429, 500, 502, 503, 504}:
                raise Unreachable(f"KFP at {url}: {said}\n  want: {READY}") from error
            raise PipelineError(
                f"KFP at {url}: {said}\n  want: {ITS_API}, and there what the answer asks for"
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"KFP at {url}: does not answer: {error}\n  want: {READY}") from error
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error.__context__, self._api.ApiException):  # the client fails on an answer without a body
                raise PipelineError(f"KFP at {url}: {error.__context__.reason}\n  want: {ITS_API}") from error
            raise PipelineError(
                f"KFP at {url}: answers, but not as Kubeflow Pipelines does ({str(error).splitlines()[0]})\n"
                f"  want: {ITS_API}; behind a login page, KFP_COOKIES or KFP_TOKEN too"
            ) from error

    def pipeline(self, name: str, *, description: str) -> str:
        """The id of the pipeline of this name, which is made if there is none."""
        with self._calling():
            try:
                found = self._pipelines.pipeline_service_get_pipeline_by_name(
                    name, **self._where, _request_timeout=TIMEOUT_S
                )
            except self._api.ApiException as error:
                if error.status != 404:
                    raise
                body = self._api.V2beta1Pipeline(name=name, display_name=name, description=description, **self._where)
                found = self._pipelines.pipeline_service_create_pipeline(body, _request_timeout=TIMEOUT_S)
            return str(found.pipeline_id)

    def version(self, pipeline_id: str, name: str, file: Path) -> str:
        """The id of the version of this name; the file is uploaded if there is none."""
        token = ""
        with self._calling():
            while True:
                page = self._pipelines.pipeline_service_list_pipeline_versions(
                    pipeline_id, page_token=token, page_size=PAGE, _request_timeout=TIMEOUT_S
                )
                for version in page.pipeline_versions or ():
                    if version.display_name == name:
                        return str(version.pipeline_version_id)
                token = page.next_page_token
                if not token:
                    break
            made = self._uploads.upload_pipeline_version(
                str(file), name=name, pipelineid=pipeline_id, _request_timeout=TIMEOUT_S
            )
            return str(made.pipeline_version_id)

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, which is made if there is none."""
        wanted = {"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": name}]}
        with self._calling():
            page = self._experiments.experiment_service_list_experiments(
                filter=json.dumps(wanted), page_size=PAGE, **self._where, _request_timeout=TIMEOUT_S
            )
            if page.experiments:
                return str(page.experiments[0].experiment_id)
            body = self._api.V2beta1Experiment(display_name=name, **self._where)
            made = self._experiments.experiment_service_create_experiment(body, _request_timeout=TIMEOUT_S)
            return str(made.experiment_id)

    def start(
        self,
        name: str,
        *,
        experiment_id: str,
        pipeline_id: str,
        version_id: str,
        parameters: Mapping[str, Any],
        mlflow_experiment: str,
    ) -> str:
        """Starts a run of a version and returns its id."""
        plugins = {"mlflow": {"experiment_name": mlflow_experiment}} if self.endpoint.mlflow_plugin else None
        body = self._api.V2beta1Run(
            display_name=name,
            experiment_id=experiment_id,
            pipeline_version_reference=self._api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline_id, pipeline_version_id=version_id
            ),
            runtime_config=self._api.V2beta1RuntimeConfig(parameters=dict(parameters)),
            service_account=self.endpoint.service_account or None,
            plugins_input=plugins,
        )
        with self._calling():
            return str(self._runs.run_service_create_run(body, _request_timeout=TIMEOUT_S).run_id)

    def run(self, run_id: str) -> Any:
        """The run as it is now, a V2beta1Run."""
        with self._calling():
            return self._runs.run_service_get_run(run_id, _request_timeout=TIMEOUT_S)


def _message(body: Any) -> str:
    """What the API says about its error, on one line."""
    try:
        said = json.loads(body)
        return f": {said['message'] if isinstance(said, dict) else said}".splitlines()[0]
    except (ValueError, TypeError, KeyError):
        return ""
