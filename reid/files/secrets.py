"""The encryption key of an experiment travels in the environment: never in a file, a parameter or an argument."""

import os

KEY_ENVIRONMENT = "REID_ENCRYPTION_KEY"


def encryption_key() -> str | None:
    """The pass phrase of this process; None if model files are written unencrypted."""
    return os.environ.get(KEY_ENVIRONMENT) or None


def key_to_environment(key: str | None) -> None:
    """Puts a spec's key into the environment of this process and its children, unless there is one already."""
    if key and not os.environ.get(KEY_ENVIRONMENT):
        os.environ[KEY_ENVIRONMENT] = key
