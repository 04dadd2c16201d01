"""Builds and pushes the images of the stages: the command behind `make images` and `make push`.

    python3 -m pipelines.local.image_builds build
    python3 -m pipelines.local.image_builds push registry.example.org/team

Standard library and the docker command line only.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from components import images
from pipelines.local.code_hash import hash_files
from pipelines.local.docker_engine import docker, engine, image_id, image_label
from reid import __version__
from reid.console.plain import show_error
from reid.errors import PipelineError, ReidError

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "reid.source"
"""Name of the label that holds the hash of the files that went into an image from this repository."""
INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""What a build needs if PyPI is not reached directly: settings of pip, and Docker's own build arguments."""
CERTIFICATES = ROOT / "build" / "ca-certificates.crt"
"""Certificates that pip is to trust in the build; git ignores the folder."""
IMAGES = {"torch": images.REID, "tensorrt": images.TENSORRT}
VARIABLES = {"torch": "REID_IMAGE", "tensorrt": "REID_TRT_IMAGE"}


def source_hash(image: str) -> str:
    """The hash of the files that the image is built from."""
    files = [path for path in (ROOT / "reid").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    names = ("Dockerfile", "__init__.py", "entry.py", "packages.py", f"{image}.packages")
    nodes = (ROOT / "components" / "nodes").glob("*.py")
    files += [ROOT / "requirements.lock", *nodes, *(ROOT / "components" / name for name in names)]
    return hash_files(ROOT, sorted(files))


def state(image: str) -> str:
    """ "ready", "missing", or "old": built from other code. An image that REID_IMAGE names is never called old."""
    name = IMAGES[image]
    if image_id(name) is None:
        return "missing"
    if os.environ.get(VARIABLES[image]) or image_label(name, SOURCE) == source_hash(image):
        return "ready"
    return "old"


def all_ready() -> bool:
    """Whether Docker answers and has both images, up to date."""
    try:
        engine()
        return all(state(image) == "ready" for image in IMAGES)
    except PipelineError:
        return False


def ensure() -> None:
    """Makes both images ready: builds this project's if it is missing or old, pulls one that a variable names."""
    engine()
    for image, name in IMAGES.items():
        found = state(image)
        if found == "missing" and os.environ.get(VARIABLES[image]):
            _pull(name, VARIABLES[image])
        elif found != "ready":
            print(f"image {name} is {found}: building it (see components/Dockerfile)", flush=True)
            build(image)


def _pull(name: str, variable: str) -> None:
    print(f"image {name} is not here: pulling it", flush=True)
    try:
        docker("pull", "--quiet", name, timeout_s=None)
    except PipelineError as error:
        raise PipelineError(
            f"{variable}={name}: no such image here, and {error}\n"
            f"  want: an image that is here or can be pulled; without {variable} the project's own is built"
        ) from None


def build(image: str) -> None:
    """Builds one image under its name of components/images.py; docker's own output goes to standard error."""
    name = IMAGES[image]
    if "@" in name:
        raise PipelineError(f"{VARIABLES[image]}={name}: a digest names an image that is built already\n  want: a tag")
    _take_certificates()
    values = {"IMAGE": image, "VERSION": __version__, "SOURCE": source_hash(image)}
    if base := os.environ.get("TENSORRT_BASE" if image == "tensorrt" else "BASE") or os.environ.get("BASE"):
        values["BASE"] = base
    values |= {variable: os.environ[variable] for variable in (*INDEX, *PROXIES) if variable in os.environ}
    options = [word for key, value in values.items() for word in ("--build-arg", f"{key}={value}")]
    command = ["docker", "build", "--file", "components/Dockerfile", "--tag", name, *options]
    command += [*shlex.split(os.environ.get("BUILD_ARGS", "")), "."]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode:
        raise PipelineError(
            f"image {name}: docker build failed, see above\n"
            "  want: a BASE with Python 3.11 and a package index that can be reached; pip's PIP_INDEX_URL,\n"
            f"        PIP_EXTRA_INDEX_URL and PIP_TRUSTED_HOST are passed on, certificates go to {CERTIFICATES}"
        )


def _take_certificates() -> None:
    """Copies the certificates that PIP_CERT names to where the build finds them: it cannot see other paths."""
    named = os.environ.get("PIP_CERT")
    if named:
        CERTIFICATES.parent.mkdir(exist_ok=True)
        shutil.copyfile(named, CERTIFICATES)


def push(registry: str) -> None:
    """Tags and pushes both images, and prints the digests by which to compile a pipeline for a cluster."""
    missing = [name for name in IMAGES.values() if image_id(name) is None]
    if missing:
        raise PipelineError(f"make push: no image {missing[0]} here\n  want: make images")
    digests = {}
    for image, name in IMAGES.items():
        repository = f"{registry.rstrip('/')}/reid-pipeline/{image}"
        docker("tag", name, f"{repository}:{__version__}")
        docker("push", "--quiet", f"{repository}:{__version__}", timeout_s=None)
        known = json.loads(docker("image", "inspect", "--format", "{{json .RepoDigests}}", name))
        digests[image] = next(digest for digest in known if digest.startswith(f"{repository}@"))
    print("pushed; these names in the environment of `make compile` and `make pipeline-run` fix the images:")
    for image, digest in digests.items():
        print(f"export {VARIABLES[image]}={digest}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 2 an error that the user can correct."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.local.image_builds", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build both images")
    pushing = commands.add_parser("push", help="tag and push both images")
    pushing.add_argument("registry", help="e.g. registry.example.org/team")
    options = parser.parse_args(arguments)
    try:
        engine()
        if options.command == "push":
            push(options.registry)
        else:
            for image in IMAGES:
                build(image)
    except ReidError as error:
        show_error(error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
