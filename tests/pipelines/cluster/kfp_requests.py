"""How the loopback server of Kubeflow Pipelines takes a request and answers it, strictly; kfp_server.py says what."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api

API = "/apis/v2beta1"


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


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


class Requests(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.raw = self.rfile.read(length)
        place = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(place.query, keep_blank_values=True).items()}
        path = unquote(place.path)
        self.server.calls.append(f"{self.command} {path}")
        try:
            self._check_headers(path)
            status, (kind, text) = (
                200,
                self._beside(path) or ("application/json", json.dumps(self._route(path)).encode()),
            )
        except Refusal as error:
            status, kind = error.status, "application/json"
            text = json.dumps({"error": str(error), "message": str(error), "code": 3}).encode()
            if status == 400:
                self.server.faults.append(f"{self.command} {path}: {error}")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _beside(self, path: str) -> tuple[str, bytes] | None:
        kind, stages = self.headers.get("Content-Type", ""), self._moment()[1]
        return self.server.beside.answer(path, query=self.query, kind=kind, body=self.raw, stages=stages)

    def _check_headers(self, path: str) -> None:
        for name, value in self.server.wanted.items():
            if self.headers.get(name) != value:
                raise Refusal(401, f"{name}: {self.headers.get(name)!r}")
        if path.startswith(API) and "application/json" not in self.headers.get("Accept", ""):
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

    def _route(self, path: str) -> dict[str, Any]:
        raise NotImplementedError

    def _moment(self) -> tuple[str, Mapping[str, str]]:
        raise NotImplementedError
