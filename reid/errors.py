"""The errors of this project: one tree, so that a caller can catch what is the user's to mend.

A ReidError says where, what was found and what was wanted. The command lines print it without a traceback and exit
with status 2.
"""


class ReidError(Exception):
    """Something the user can mend; its text is all that the user is shown."""

    exit_status = 2


class SpecError(ReidError):
    """The experiment spec is wrong: unknown key, wrong type, out of range, or fields that contradict each other."""


class DatasetError(ReidError):
    """The data set is missing, unreadable, or not laid out as Market-1501."""


class UnreadableImage(DatasetError):
    """An image that cannot be decoded."""


class ArtifactError(ReidError):
    """A checkpoint, ONNX file, engine or output file is missing, damaged, of the wrong kind, or in the way."""


class KeyRefused(ArtifactError):
    """An encrypted file, and no key or another one; or the file was changed, which cannot be told apart."""


class TrainingError(ReidError):
    """Training cannot go on: the loss is not finite, or another run holds the results folder."""


class TrackingError(ReidError):
    """The MLflow store cannot be reached or written."""


class PipelineError(ReidError):
    """The compiled pipeline cannot be run here, or one of its tasks failed."""


class MissingDependency(ReidError):
    """An optional package is not installed; the text names the extra or the image that has it."""


class ServerError(ReidError):
    """An inference server cannot be started or reached, or does not serve what its contract says."""
