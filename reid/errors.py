"""The errors of this project: one tree, so that a caller can catch everything that the user can correct.

The text of a ReidError says where the error is, what was found and what was wanted. The command lines print it without
a traceback and exit with status 2.
"""


class ReidError(Exception):
    """Something that the user can correct; its text is all that the user is shown."""

    exit_status = 2


class SpecError(ReidError):
    """The experiment spec is wrong: an unknown key, a wrong type, a value out of range, or contradictory fields."""


class DatasetError(ReidError):
    """The data set is missing, unreadable, or not laid out as dataset.layout says."""


class UnreadableImage(DatasetError):
    """An image cannot be decoded."""


class ArtifactError(ReidError):
    """A checkpoint, ONNX file, engine or output file is missing, damaged, of the wrong kind, or in the way."""


class KeyRefused(ArtifactError):
    """An encrypted file was opened without a key or with a wrong one, or it was changed: these cannot be told apart."""


class FolderInUse(ReidError):
    """Another process is using the results folder."""


class TrainingError(ReidError):
    """Training cannot continue: the loss is not finite, or the results folder holds a training with other settings."""


class RankLost(TrainingError):
    """One of several processes that compute together ended, so the others had to; running the task again resumes."""

    exit_status = 1


class TrackingError(ReidError):
    """The MLflow store cannot be reached or written."""


class PipelineError(ReidError):
    """The compiled pipeline cannot be run here, or one of its tasks failed."""


class MissingDependency(ReidError):
    """An optional package is not installed; the text names the extra or the image that has it."""


class MachineError(ReidError):
    """The machine gives the process too little memory or too few threads, or its working folder is gone."""


class DriverError(ReidError):
    """The machine's NVIDIA driver cannot run the installed PyTorch."""


class ServerError(ReidError):
    """An inference server cannot be started or reached, or does not serve what its contract says."""
