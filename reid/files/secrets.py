"""Secrets travel in the environment: never in a file, a parameter, an argument or an error."""

import os
import re

KEY_ENVIRONMENT = "REID_ENCRYPTION_KEY"
PLAIN_ENVIRONMENT = "REID_ACCEPT_PLAIN_MODELS"
"""Whoever sets it to 1 trusts model files that are not encrypted, though there is a key."""
PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
"""The user and the password in an address."""
IN_QUERY = re.compile(
    r"(?<=[?&;])((?:pass(?:word|wd|phrase)?|pwd|token|access_token|api_key|apikey|secret|sslpassword)=)[^&;\s'\"]*",
    re.I,
)
"""A secret among the options behind an address: PostgreSQL's and others' password=…"""


def encryption_key() -> str | None:
    """The pass phrase of this process, less line ends after it; None if model files are written unencrypted."""
    return os.environ.get(KEY_ENVIRONMENT, "").rstrip("\r\n") or None


def accepts_plain_models() -> bool:
    """Whether a file that should be encrypted may be plain: without a key, or if the environment says so."""
    return encryption_key() is None or os.environ.get(PLAIN_ENVIRONMENT) == "1"


def key_to_environment(key: str | None) -> None:
    """Puts a spec's key into the environment of this process and its children, unless there is one already."""
    if key and not encryption_key():
        os.environ[KEY_ENVIRONMENT] = key


def without_password(address: str) -> str:
    """A text without the passwords of the addresses in it: `http://user:***@host`, `postgresql://host?password=***`."""
    return IN_QUERY.sub(r"\1***", PASSWORD.sub(r"\1:***@", address))
