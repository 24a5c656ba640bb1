"""The tasks: which track is given, which is prompted."""

from dataclasses import dataclass

from mge_plugin.tracks import Track


@dataclass(frozen=True)
class Task:
    """One row of the paper's section 2.3."""

    given: Track | None  # known; the other tracks are sampled
    prompted: Track  # the track that the text describes


TASKS = {
    "generate": Task(given=None, prompted=Track.MIXTURE),
    "extract": Task(given=Track.MIXTURE, prompted=Track.SOURCE),
    "add": Task(given=Track.SUBMIXTURE, prompted=Track.SOURCE),
    "accompany": Task(given=Track.SOURCE, prompted=Track.SUBMIXTURE),
}
