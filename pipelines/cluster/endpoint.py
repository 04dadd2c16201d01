"""Where a cluster's Kubeflow Pipelines is, and the credentials for it: the KFP_… variables of the environment."""

import os
from dataclasses import dataclass
from pathlib import Path

from reid.errors import PipelineError
from reid.files.secrets import without_password

FILES = {
    "KFP_CA_CERT": "the certificate (PEM) of the authority that signed the endpoint's certificate",
    "KFP_TOKEN_FILE": "a file that holds a token",
}
"""Variables that name files -> what the file has to hold."""


@dataclass(frozen=True)
class Endpoint:
    """Where a cluster's API is, and the credentials for it, from the environment: `ps` does not show them there."""

    url: str
    ui_url: str = ""
    """The address of the web pages; "": the endpoint itself if it has pages."""
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

    @property
    def shown(self) -> str:
        """The address as errors name it: without a password."""
        return without_password(self.url)

    @classmethod
    def from_environment(cls) -> "Endpoint":
        """Reads KFP_ENDPOINT and the other KFP_… variables. Raises PipelineError if it is not set or no address."""
        url = os.environ.get("KFP_ENDPOINT", "")
        if not url.startswith(("http://", "https://")):
            raise PipelineError(
                f"KFP_ENDPOINT: found {without_password(url)!r}\n  want: the address of Kubeflow Pipelines, https://…"
            )
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
