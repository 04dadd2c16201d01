"""What a KFP installation serves beside its v2beta1 API: Argo's workflow, logs, web pages and ML Metadata."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from tests.pipelines.cluster.kfp_answers import DRIVER_LOG, LOG, workflow
from tests.pipelines.cluster.metadata_store import grpc_web_answer


class Beside:
    """What is served; what is not is answered with 404, or as the real servers do."""

    def __init__(self) -> None:
        self.workflows = True
        """Whether the v1beta1 API, which gives Argo's workflow, is served."""
        self.argo: dict[str, Any] = {}
        """Options of the workflow: its message, whether its nodes are compressed."""
        self.logs = {"artifact", "pod", "pages"}
        """The ways by which a log can be read."""
        self.driver_failed = False
        """Whether the log is that of a driver."""
        self.pages = False
        """Whether it also is the web server in front of the API."""
        self.metadata: dict[str, dict[str, float]] = {}
        """Run id -> the metrics of its evaluation in ML Metadata; served with the pages."""

    def answer(
        self, path: str, *, query: Mapping[str, str], kind: str, body: bytes, stages: Mapping[str, str]
    ) -> tuple[str, bytes] | None:
        """Content type and body; None if it is not served here. `kind` and `body` are those of the request."""
        if path == "/" and self.pages:
            return "text/html; charset=utf-8", b"<!doctype html>"
        if path.startswith("/ml_metadata.MetadataStoreService/") and self.pages:
            assert kind == "application/grpc-web+proto"
            return kind, grpc_web_answer(path.rpartition("/")[2], body, self.metadata)
        if path.startswith("/apis/v1beta1/runs/") and self.workflows:
            manifest = json.dumps(workflow(stages, **self.argo))
            return "application/json", json.dumps({"pipeline_runtime": {"workflow_manifest": manifest}}).encode()
        return self._log(path, query.get("podname", ""))

    def _log(self, path: str, pod: str) -> tuple[str, bytes] | None:
        log = DRIVER_LOG if self.driver_failed else LOG
        if re.fullmatch(r"/apis/v2beta1/runs/[^/]+/nodes/reid-x1-\d+/artifacts/main-logs:read", path):
            if "artifact" in self.logs:
                return "application/json", json.dumps({"data": base64.b64encode(log.encode()).decode()}).encode()
        elif re.fullmatch(r"/apis/v1alpha1/runs/[^/]+/nodes/reid-x1-system-container-\w+-\d+/log", path):
            said = log if "pod" in self.logs else '{"error_message":"BadRequestError"}'  # with status 200, as it is
            return "text/plain; charset=utf-8", said.encode()
        elif path == "/k8s/pod/logs" and "pages" in self.logs:
            return "text/plain", log.encode()
        return None
