"""What the system says about a path that this process may not write: who the process is, and whose the folder is.

Volumes of a cluster belong to root unless somebody gives them away, and the stages run as another user.
"""

import errno
import os
from pathlib import Path

from reid.files.disk_errors import with_causes

REFUSALS = {errno.EACCES, errno.EPERM}
ON_A_CLUSTER = (
    '  on a cluster: give the volume to that user, see "Rights" in docs/kubernetes.md: kubectl apply --filename'
    " k8s/copy/owner.yaml, or on the volume's server chown -R {user}:{group} FOLDER"
)


def may_write(folder: Path) -> bool:
    """Whether this process may make files in an existing folder."""
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def rights(path: Path) -> str:
    """Lines for an error's text: this process's user, and the owner and mode of the path or the nearest folder above
    it that can be seen."""
    user, group = os.geteuid(), os.getegid()
    while True:
        try:
            found = path.stat()
            break
        except OSError:
            path = path.parent
    owner = f"{path} belongs to user {found.st_uid}, group {found.st_gid}, mode {found.st_mode & 0o7777:o}"
    lines = f"  who:   this process is user {user}, group {group}; {owner}"
    if os.environ.get("KFP_RUN_ID"):
        lines += "\n" + ON_A_CLUSTER.format(user=user, group=group)
    return lines


def rights_refused(error: BaseException) -> str:
    """The lines of `rights`, after a line break, if the error came from a path that may not be written; else ""."""
    for cause in with_causes(error):
        if isinstance(cause, OSError) and cause.errno in REFUSALS and isinstance(cause.filename, str):
            return "\n" + rights(Path(cause.filename).absolute())
    return ""
