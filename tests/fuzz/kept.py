"""Inputs that were findings once; every run of the fuzz suite begins with them.

An input is kept as the smallest one that shows the fault. A new finding of `make fuzz` is added once it is mended.
"""

YAML_TEXTS = [
    b"a: !!int x",
    b"a: !!bool maybe",
    b"a: !!timestamp x",
    b"a: " + b"9" * 5000,
    b"a: !!set {b}",
    b"null: 1",
    b"a: ${}",
    b"5",
    b"{a: " * 500 + b"1" + b"}" * 500,
    b"[" * 1000 + b"]" * 1000,
    b"a: " + b"[" * 100_000,
    b'results_dir: "a\\0b"',
    b"train: {optim: {base_lr: 1e999}}",
    b"encryption_key: 123456",
    b"\xff\xfe",
]
JSON_TEXTS = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"5",
    b'"a"',
    b"NaN",
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"9" * 5000,
    b'{"files": {"a": 1}}',
    b"\xff\xfe{\x00}\x00",
    b'"\\ud800"',
    b'{"version": 1, "files": [1]}',
    b'{"inputs": 1}',
    b'{"inputs": {"artifacts": {"a": 5}}, "outputs": {}}',
    b'{"outputs": {"outputFile": 5}}',
    b'{"mean": null}',
    b'{"state": "running", "stages": null}',
]
JSON_DOORS = ("manifest", "task.json", "runs/*.json", "mlflow.json", "mlflow.jsonl", "executor input", "contract")
JSON_DOORS += (
    "thresholds",
    "served model",
    "list of models",
    "build.json",
    "embeddings .json",
    "layout cuhk03",
    "index of images",
)
KEPT: dict[str, list[bytes]] = {
    **dict.fromkeys(("spec", "spec file", "cluster file"), YAML_TEXTS),
    **dict.fromkeys(JSON_DOORS, JSON_TEXTS),
    "inference": [b"99\n{}", b"-5\n{}", b"\n" + b"[" * 10_000, b'\n{"outputs": [{"name": "fc_pred", "data": 5}]}'],
    "override": ["[x$…=1".encode(), b"train..x=1", b"results_dir=\xff", b"train.seed=!!int x", b"a=" + b"[" * 1000],
    "dataset.file_name": [b"(", b"(?P<person>", b"(?P<person>a){99999999999}", b"[" * 5000, b"(" * 500],
    "file name": [b"\xff_c1s1_000001_01.jpg", b"9" * 5000 + b"_c1s1_000001_01.jpg"],
    "image": [b"", b"GIF89a", b"II*\0", b"\x89PNG\r\n\x1a\n"],
}
"""Door -> inputs."""
