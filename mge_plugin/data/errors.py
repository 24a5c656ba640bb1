"""What is wrong with an audio file."""

from pathlib import Path


class AudioError(ValueError):
    """A file that cannot be used as audio; the message names it and says what is wrong.

    `path` is optional since a DataLoader rebuilds its workers' errors from the message alone.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.path = path
