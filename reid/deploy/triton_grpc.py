"""Triton's gRPC, by tritonclient, every call with a deadline.

This is the only file that imports tritonclient.
Shapes: B images of a request, C channels, H height, W width, D embedding width.
"""

import queue
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.deploy.onnx import INPUT, OUTPUT
from reid.deploy.triton_answers import LARGEST_ANSWER, LARGEST_EMBEDDING, Output, embeddings_of, shown
from reid.deploy.triton_connection import Server, ServerAway, UnknownModel, refused
from reid.errors import MissingDependency, ServerError

LARGEST_MESSAGE = LARGEST_ANSWER + 4 * 1024 * LARGEST_EMBEDDING
"""Most bytes of a message of the server: embeddings of the largest width for 1,024 images."""
RECONNECT_MS = 5000
"""gRPC's own longest pause between attempts to connect."""
AWAY = {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}
"""Statuses that may pass in a moment."""
STOPPING = "has stopped accepting new inference requests"
UNKNOWN_MODEL = "Request for unknown model"
STREAM_ENDED = "The stream is no longer in valid state"
"""tritonclient's words if the connection of a stream was lost between two requests."""
TOO_LARGE = "Received message larger than max"


class GrpcConnection:
    """A connection by gRPC: one call a request, or one stream for all of them."""

    def __init__(self, server: Server) -> None:
        """Raises MissingDependency without tritonclient."""
        try:
            import tritonclient.grpc as library
        except (ImportError, RuntimeError) as error:  # tritonclient turns an ImportError into a RuntimeError
            raise MissingDependency(
                f"Triton client: {error}; tritonclient, which gRPC needs, comes with pip install -e '.[triton]' in the "
                "repository's root"
            ) from error
        arguments = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.enable_http_proxy", int(not server.is_on_this_machine)),
        ]
        self._server, self._library = server, library
        self._client = library.InferenceServerClient(server.address, ssl=server.tls, channel_args=arguments)
        self._answers: queue.SimpleQueue[tuple[Any, Exception | None]] | None = None
        """What the stream brings; None if none is open."""

    def config(self, *, deadline: float) -> Any:
        """See Connection."""
        name, version = self._server.model_name, self._server.model_version
        answer = self._call(
            lambda left: self._client.get_model_config(name, version, as_json=True, client_timeout=left), deadline
        )
        return answer.get("config", {})

    def models(self, *, deadline: float) -> Any:
        """See Connection."""
        return self._call(
            lambda left: self._client.get_model_repository_index(as_json=True, client_timeout=left), deadline
        )

    def infer(self, images: NDArray[Any], *, width: int, deadline: float) -> NDArray[np.float32]:
        """See Connection."""
        kind = "UINT8" if images.dtype == np.uint8 else "FP32"
        port = self._library.InferInput(INPUT, list(images.shape), kind)
        port.set_data_from_numpy(np.ascontiguousarray(images, np.uint8 if kind == "UINT8" else np.float32))
        request = {
            "inputs": [port],
            "model_version": self._server.model_version,
            "outputs": [self._library.InferRequestedOutput(OUTPUT)],
        }
        name = self._server.model_name
        if self._server.streaming:
            answer = self._call(lambda left: self._infer_by_stream(name, request, left), deadline)
        else:
            answer = self._call(lambda left: self._client.infer(name, **request, client_timeout=left), deadline)
        return embeddings_of(_output_in(answer), images=len(images), width=width, where=self._server.where)

    def close(self) -> None:
        """See Connection."""
        if self._answers is not None:
            self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def _infer_by_stream(self, name: str, request: dict[str, Any], left: float) -> Any:
        """Sends one request over the stream, which is opened by the first one, and waits for its answer.

        A connection has one request under way at a time, so an error, which names no request, belongs to this one.
        """
        if self._answers is None:
            answers = self._answers = queue.SimpleQueue()
            self._client.start_stream(lambda result, error: answers.put((result, error)))
        self._client.async_stream_infer(name, **request)
        try:
            result, error = self._answers.get(timeout=left)
        except queue.Empty:
            raise TimeoutError("no answer over the stream in time") from None
        if error is not None:
            raise error
        return result

    def _call(self, ask: Callable[[float], Any], deadline: float) -> Any:
        """The answer of a call that gets the time that is left."""
        from tritonclient.utils import InferenceServerException

        try:
            return ask(max(deadline - time.monotonic(), 0.001))
        except InferenceServerException as error:
            raise _explained(self._server, error) from error
        except (OSError, ValueError) as error:  # ValueError: the channel was closed meanwhile
            raise ServerAway(str(error)) from error
        except RecursionError as error:
            raise ServerError(f"{self._server.where}: the answer is nested too deeply") from error


def _output_in(answer: Any) -> Output | None:
    """The output OUTPUT of an answer; None if it has none."""
    message = answer.get_response()
    for place, output in enumerate(message.outputs):
        if output.name == OUTPUT:
            raw = message.raw_output_contents
            data = raw[place] if place < len(raw) else list(output.contents.fp32_contents)
            return Output(output.datatype, list(output.shape), data)
    return None


def _explained(server: Server, error: Any) -> Exception:
    """tritonclient's error as one that `Connection` names; those of a stream have no status, only words."""
    status, said = error.status(), str(error.message())
    if status in AWAY or STREAM_ENDED in said or (status is None and STOPPING in said):
        return ServerAway(str(error))
    if status == "StatusCode.NOT_FOUND" or UNKNOWN_MODEL in said:
        return UnknownModel(str(error))
    if TOO_LARGE in said:
        return ServerError(
            f"{server.url}: the answer is too large\n  found: {shown(said)}\n  want:  at most {LARGEST_MESSAGE:,} bytes"
        )
    return refused(server, shown(str(error), 500))
