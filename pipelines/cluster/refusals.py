"""What it means that Kubeflow Pipelines' API refuses a call or does not answer, as an error with what is wanted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reid.errors import PipelineError

ITS_API = "the address of its API (v2beta1) in KFP_ENDPOINT"
READY = f"{ITS_API}, and its server up"


class Unreachable(PipelineError):
    """The endpoint does not answer, or answers with a server error; asking again may help."""


@contextmanager
def told_plainly(refused: type[Any], url: str) -> Iterator[None]:
    """Raises a PipelineError for what the generated client raises, `refused` for an answer that is no success."""
    import urllib3  # noqa: PLC0415 - with kfp_server_api

    try:
        yield
    except refused as error:
        said = f"{error.status} {error.reason}{_message(error.body)}"
        if error.status in {401, 403}:
            raise PipelineError(
                f"KFP at {url}: refused: {said}\n  want: KFP_TOKEN, KFP_TOKEN_FILE or KFP_COOKIES of somebody who"
                " may run pipelines there; KFP_NAMESPACE on a multi-user installation"
            ) from error
        if error.status in {0, 429, 500, 502, 503, 504}:
            raise Unreachable(f"KFP at {url}: {said}\n  want: {READY}") from error
        raise PipelineError(f"KFP at {url}: {said}\n  want: {ITS_API}, and there what the answer asks for") from error
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(f"KFP at {url}: does not answer: {error}\n  want: {READY}") from error
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error.__context__, refused):  # the client fails on an answer without a body
            raise PipelineError(f"KFP at {url}: {error.__context__.reason}\n  want: {ITS_API}") from error
        raise PipelineError(
            f"KFP at {url}: answers, but not as Kubeflow Pipelines does ({str(error).splitlines()[0]})\n"
            f"  want: {ITS_API}; behind a login page, KFP_COOKIES or KFP_TOKEN too"
        ) from error


def _message(body: Any) -> str:
    """What the API says about its error, on one line."""
    try:
        said = json.loads(body)
        return f": {said['message'] if isinstance(said, dict) else said}".splitlines()[0]
    except (ValueError, TypeError, KeyError):
        return ""
