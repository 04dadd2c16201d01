"""The one secret of an experiment travels by the environment: never in a file, a parameter or an argument."""

import os

KEY_ENVIRONMENT = "REID_ENCRYPTION_KEY"


def encryption_key() -> str | None:
    """The pass phrase of this process; null: model files are written in the clear."""
    return os.environ.get(KEY_ENVIRONMENT) or None


def key_to_environment(key: str | None) -> None:
    """Hands a spec's key to this process and those it starts, unless the environment has one already."""
    if key and not os.environ.get(KEY_ENVIRONMENT):
        os.environ[KEY_ENVIRONMENT] = key
