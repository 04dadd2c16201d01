"""The address of a served model, the connection to it, and the kinds of failure that a connection tells apart.

`triton_http.py` and `triton_grpc.py` are the two connections. Every call of one ends at its deadline, whatever the
server does, and its answer has been checked by `triton_answers.py`.
Shapes: B images of a request, C channels, H height, W width, D embedding width.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from reid.errors import ServerError, SpecError

URL = re.compile(
    r"((?P<scheme>https?|grpcs?)://)?(?P<address>(?P<host>\[[0-9A-Fa-f:]+\]|[^\s/:\[\]]+)(:(?P<port>\d{1,5}))?"
    r"(?P<path>/\S*)?)"
)

PROTOCOLS = {"http": "http", "https": "http", "grpc": "grpc"}
"""The protocol asked for -> the one used. As in TAO's client "https" means HTTP; the URL's scheme chooses TLS."""


class ServerAway(Exception):
    """No connection, one that was cut off, no answer in time, a server that starts or stops: it may pass in a moment.

    The client repeats the request; this error never reaches a user.
    """


class UnknownModel(Exception):
    """The server says that it has no such model; `TritonModel` makes a ServerError of it."""


@dataclass(frozen=True)
class Server:
    """The address of a served model."""

    url: str
    """host:port, or with a scheme; https:// or grpcs:// ask for TLS."""
    protocol: str
    """A key of PROTOCOLS, in upper or lower case."""
    model_name: str
    model_version: str
    """"" for the version that the server chooses, the latest."""
    streaming: bool = False
    """Whether requests go over a stream (ModelStreamInfer), which only gRPC has."""

    def __post_init__(self) -> None:
        """Raises SpecError if HTTP is to stream."""
        if self.streaming and not self.is_grpc:
            raise SpecError(
                f"--streaming: only gRPC can stream\n  found: {self.protocol} (-i)\n"
                "  want:  -i grpc, with Triton's gRPC port (by default 8001); or without --streaming"
            )

    @property
    def tls(self) -> bool:
        """Whether the URL asks for TLS."""
        return self._url["scheme"] in ("https", "grpcs")

    @property
    def address(self) -> str:
        """The URL without its scheme."""
        return self._url["address"]

    @property
    def _url(self) -> re.Match[str]:
        found = URL.fullmatch(self.url)
        if found is None or int(found["port"] or 0) > 65535:
            raise SpecError(f"{self.url}: not the address of a server; want host:port, or https://host:port for TLS")
        return found

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The host, without the brackets of IPv6, and the port, which is by default that of the web."""
        return self._url["host"].strip("[]"), int(self._url["port"] or (443 if self.tls else 80))

    @property
    def is_grpc(self) -> bool:
        """Whether the protocol is gRPC, not HTTP."""
        return PROTOCOLS[self.protocol.lower()] == "grpc"

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the address is a loopback address: localhost, 127.0.0.0/8 or ::1."""
        host, _ = self.host_and_port
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host.lower().rstrip(".") == "localhost"

    @property
    def where(self) -> str:
        """The address and the model, as errors begin."""
        return f"{self.url}: {self.model_name}"

    def path(self, what: str) -> str:
        """The HTTP path of the server's v2/`what`."""
        return f"{(self._url['path'] or '').rstrip('/')}/v2/{what}"

    @property
    def model_path(self) -> str:
        """The HTTP path of the model, of its version if one is named."""
        version = f"/versions/{quote(self.model_version, safe='')}" if self.model_version else ""
        return self.path(f"models/{quote(self.model_name, safe='')}{version}")


class Connection(Protocol):
    """A connection of one thread. `deadline` is a time of time.monotonic().

    Each call raises ServerAway if there is no answer by then, UnknownModel, or ServerError for a refusal and for an
    answer that is not what it should be.
    """

    def config(self, *, deadline: float) -> Any:
        """Returns the model's configuration as Triton gives it in JSON, not checked further."""

    def infer(self, images: NDArray[Any], *, width: int, deadline: float) -> NDArray[np.float32]:
        """Sends one request: images (B, C, H, W), or pixels -> finite embeddings (B, D), D = `width`."""

    def models(self, *, deadline: float) -> Any:
        """Returns the server's list of its models as Triton gives it in JSON, not checked further."""

    def close(self) -> None:
        """Gives up what is under way, also from another thread."""


def connect(server: Server) -> Connection:
    """A connection for one thread; MissingDependency without the package that gRPC needs."""
    if server.is_grpc:
        from reid.deploy.triton_grpc import GrpcConnection

        return GrpcConnection(server)
    from reid.deploy.triton_http import HttpConnection

    return HttpConnection(server)


def refused(server: Server, said: str) -> ServerError:
    """The error for a server that refuses a request in these words."""
    return ServerError(f"{server.url}: the server refuses the request\n  found: {said}")
