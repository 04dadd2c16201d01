"""The web pages of a Kubeflow Pipelines installation: the server of the API alone has none."""

from pipelines.cluster.api import Cluster
from reid.files.secrets import without_password


def pages_of(cluster: Cluster) -> str:
    """The address of the web pages: KFP_UI, else the endpoint if it answers with a page; "" if none is known."""
    endpoint = cluster.endpoint
    if endpoint.ui_url:
        return endpoint.ui_url
    answer = cluster.ask(f"{endpoint.url}/", kind="text/html")
    return endpoint.url if answer and "text/html" in answer[0] else ""


def run_page(pages: str, run_id: str) -> str:
    """The page of a run on the web server at `pages`."""
    return f"{without_password(pages)}/#/runs/details/{run_id}"
