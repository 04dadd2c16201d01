"""Person re-identification: the library behind the command `reid` and the stages of the pipeline."""

__version__ = "0.1.0"
