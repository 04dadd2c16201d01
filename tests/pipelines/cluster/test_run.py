"""A run submitted to a strict loopback server of Kubeflow Pipelines' v2beta1 API, and followed to its end."""

import io
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.cluster import run as kfp_run
from pipelines.cluster.api import Cluster
from pipelines.cluster.endpoint import Endpoint
from pipelines.cluster.following import follow
from pipelines.run import main
from reid.errors import PipelineError
from reid.spec.facts import InForm
from reid.spec.fields import fields_with
from tests.pipelines.cluster.kfp_server import Moment

GOOD: list[Moment] = [
    ("PENDING", {}),
    ("RUNNING", {"validate": "RUNNING"}),
    ("RUNNING", {"validate": "SUCCEEDED", "train": "CACHED", "evaluate": "RUNNING", "gen-trt-engine": "RUNNING"}),
    ("SUCCEEDED", {"validate": "SUCCEEDED", "train": "CACHED", "evaluate": "SUCCEEDED"}),
]


def run(tmp_path: Path, *overrides: str) -> int:
    return main(["--spec", "demo", f"results_dir={tmp_path}/results", *overrides])


def test_a_run_is_submitted_followed_and_its_end_is_ours(
    serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(GOOD)
    assert run(tmp_path, "train.num_gpus=2") == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    for line in ("validate        started", "train           cached", "gen_trt_engine  started"):
        assert line in lines
    assert lines.index("validate        started") < lines.index("evaluate        started")
    assert any(line.startswith("evaluate        done after ") for line in lines)
    assert "run run-1 (set KFP_UI, the address of Kubeflow's web pages, for its page)" in lines
    assert f"{server.url}/#/" not in said  # the API alone has no pages
    assert "the run succeeded" in said
    assert "root-driver" not in said
    sent = server.runs["run-1"]
    assert sent["runtime_config"]["parameters"] | {"spec": ""} == {
        "spec": "",
        "data_claim": "reid-data",
        "gpus": "2",
        "embedding_gpus": "",
        "engine_gpus": "1",
        **{fact.parameter: "" for fact in fields_with(InForm).values()},
    }
    assert yaml.safe_load(sent["runtime_config"]["parameters"]["spec"])["dataset"]["synthetic"]["root"] == "/data/demo"
    assert sent["display_name"].startswith("demo ")
    assert "plugins_input" not in sent
    assert server.experiments[0]["display_name"] == "demo"
    assert not (tmp_path / "results").exists()  # results_dir is a folder of the cluster, and the file is its own


def test_the_same_content_is_one_version_found_on_a_later_page(serve, tmp_path: Path) -> None:
    server = serve(GOOD)
    assert run(tmp_path) == 0
    same = server.versions[0]
    others = [{**same, "display_name": f"other-{number}"} for number in range(4)]
    server.versions[:] = [*others, same]  # the third page of two
    assert run(tmp_path) == 0
    assert len(server.versions) == 5
    assert run(tmp_path, "train.num_epochs=7") == 0
    assert len(server.versions) == 6
    assert len(server.pipelines) == len(server.experiments) == 1


@pytest.mark.parametrize(
    ("end", "status", "text"),
    [
        ("FAILED", 1, "the run failed"),
        ("CANCELED", 130, "the run was cancelled"),
        ("SKIPPED", 1, "the run was skipped"),
    ],
)
def test_every_end_has_an_exit_status(  # noqa: PLR0917
    serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str, status: int, text: str
) -> None:
    serve([("RUNNING", {"validate": "RUNNING"}), (end, {"validate": "FAILED"})])
    assert run(tmp_path) == status
    assert text in capsys.readouterr().out


def test_a_server_that_is_away_for_a_moment_is_asked_again(
    serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(GOOD)
    server.failures = [503, 502, 503]
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert said.count("upstream connect error; asking again") == 1
    assert "503 Service Unavailable: upstream connect error" in said


def test_a_server_that_stays_away_is_given_up_and_the_runs_page_is_shown(serve) -> None:
    server = serve(GOOD)
    server.failures = [503] * 1000
    cluster = Cluster(Endpoint(server.url))
    clock = iter(range(0, 100_000, 250)).__next__
    with pytest.raises(PipelineError) as caught:
        follow(cluster, "run-1", stream=io.StringIO(), poll_s=0, clock=lambda: float(clock()))
    assert str(caught.value) == (
        f"KFP at {server.url}: 503 Service Unavailable: upstream connect error\n"
        "  want: the address of its API (v2beta1) in KFP_ENDPOINT, and its server up\n"
        "  the run may continue: run-1"
    )


def test_ctrl_c_stops_following_not_the_run(
    serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(GOOD)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kfp_run, "follow", interrupt)
    assert run(tmp_path) == 130
    said = capsys.readouterr().out
    assert "no longer followed; the run continues. To pick it up: python -m pipelines wait run-1\n" in said


def test_token_cookies_namespace_service_account_page_and_plugin_are_options(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(GOOD, headers={"authorization": "Bearer t0ken", "Cookie": "authservice_session=abc"})
    server.namespace = "team-a"
    for name, value in {
        "TOKEN": "t0ken",
        "COOKIES": "authservice_session=abc",
        "NAMESPACE": "team-a",
        "SERVICE_ACCOUNT": "reid-pipeline",
        "UI": "https://kubeflow.example/pipeline/",
        "MLFLOW_PLUGIN": "1",
    }.items():
        monkeypatch.setenv(f"KFP_{name}", value)
    assert run(tmp_path) == 0
    assert server.runs["run-1"]["service_account"] == "reid-pipeline"
    assert server.runs["run-1"]["plugins_input"] == {"mlflow": {"experiment_name": "demo"}}
    said = capsys.readouterr().out
    assert "https://kubeflow.example/pipeline/#/runs/details/run-1" in said
    assert "MLflow: http://mlflow/#/run" in said


def test_a_token_file_is_read_anew_for_each_call(serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    server = serve(GOOD, headers={"authorization": "Bearer one"})
    cluster = Cluster(Endpoint(server.url, token_file=str(file)))
    cluster.experiment("x")
    server.wanted = {"authorization": "Bearer two"}
    file.write_text("two\n")
    cluster.experiment("x")
    file.unlink()
    with pytest.raises(PipelineError) as caught:
        cluster.experiment("x")
    assert str(caught.value) == (
        f"KFP_TOKEN_FILE: found '{file}', No such file or directory\n  want: a file that holds a token"
    )


def test_a_refused_token_is_reported_without_a_traceback(
    serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(GOOD, headers={"authorization": "Bearer right"})
    assert run(tmp_path) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"error: KFP at {server.url}: refused: 401 Unauthorized: authorization: None",
        "  want: KFP_TOKEN, KFP_TOKEN_FILE or KFP_COOKIES of somebody who may run pipelines there;"
        " KFP_NAMESPACE on a multi-user installation",
    ]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "ENDPOINT",
            "kfp:8888",
            "KFP_ENDPOINT: found 'kfp:8888'\n  want: the address of Kubeflow Pipelines, https://…",
        ),
        (
            "CA_CERT",
            "/no/ca.pem",
            "KFP_CA_CERT: found '/no/ca.pem', no such file\n"
            "  want: the certificate (PEM) of the authority that signed the endpoint's certificate",
        ),
        (
            "TOKEN_FILE",
            "/no/token",
            "KFP_TOKEN_FILE: found '/no/token', no such file\n  want: a file that holds a token",
        ),
    ],
)
def test_a_mistaken_option_is_reported(  # noqa: PLR0917
    serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name, value, text
) -> None:
    serve(GOOD)
    monkeypatch.setenv(f"KFP_{name}", value)
    assert run(tmp_path) == 2
    assert capsys.readouterr().err.endswith(f"error: {text}\n")


def test_nobody_at_the_endpoint_is_reported(serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], servers) -> None:
    server = serve(GOOD)
    server.close()
    servers.clear()
    assert run(tmp_path) == 2
    said = capsys.readouterr().err
    assert f"error: KFP at {server.url}: does not answer: " in said
    assert "Connection refused" in said
    assert said.endswith("\n  want: the address of its API (v2beta1) in KFP_ENDPOINT, and its server up\n")


def test_a_ca_certificate_opens_a_server_of_a_private_authority(serve, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = serve(GOOD)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_port}"
    with pytest.raises(PipelineError, match="CERTIFICATE_VERIFY_FAILED"):
        Cluster(Endpoint(url)).experiment("x")
    assert Cluster(Endpoint(url, ca_cert=str(certificate))).experiment("x") == "experiment-1"
