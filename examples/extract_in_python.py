"""Extract a source in Python: after `make demo`, .venv/bin/python examples/extract_in_python.py."""

from pathlib import Path

import mge_plugin
from mge_plugin.data.audio import read_audio, write_wav
from mge_plugin.inference.request import Sampling

DEMO, WEIGHTS = Path("demo"), Path("weights/minislakh")


def main() -> None:
    """Take the drums out of the demo's song."""
    pipeline = mge_plugin.load(WEIGHTS / "model.json", WEIGHTS / "model.safetensors")
    mixture, sample_rate = read_audio(DEMO / "mixture.wav")
    sampling = Sampling(steps=20, cfg_scale=1.0, seed=0, sampler="dpm-solver++")
    result = pipeline.extract(mixture, sample_rate, "the sound of the drums", sampling)
    path = write_wav(DEMO / "drums_in_python.wav", result.audio["source"], sample_rate)
    print(f"Wrote {path}: {result.info['tracks']['source']}")


if __name__ == "__main__":
    main()
