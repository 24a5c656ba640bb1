"""CLAP score: cosine of what was asked in words and what was made, by the model's own ears."""

import numpy as np
import torch

from mge_plugin.evaluation.embeddings import ConditionerEmbedding
from mge_plugin.evaluation.segments import Segment
from mge_plugin.prompts import label_prompt


class ClapScore:
    """Scores by an embedder of texts and audio, and bears its name: figures of two never compare.

    Silence is embedded like anything else, so that a silent estimate shrinks no set.
    """

    def __init__(self, ears: ConditionerEmbedding) -> None:
        self.ears = ears

    @property
    def name(self) -> str:
        """The embedder's: ClapEmbedder, TextAudio."""
        return self.ears.name

    def score(self, segment: Segment, audio: np.ndarray) -> float:
        """From -1 to 1, of the prompt that names all that is wanted, and (channels, samples)."""
        text = self.ears.embed_text(label_prompt(segment.wanted))
        (heard,) = self.ears.embed(audio, segment.sample_rate)
        return float(torch.cosine_similarity(*map(torch.from_numpy, (text, heard)), dim=0))
