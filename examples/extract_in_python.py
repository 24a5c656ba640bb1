"""Extract a source in Python: after `make demo`, .venv/bin/python examples/extract_in_python.py."""

from pathlib import Path

import mge_plugin

DEMO, WEIGHTS = Path("demo"), Path("weights/minislakh")


def main() -> None:
    """Take the drums out of the demo's song."""
    pipeline = mge_plugin.load(WEIGHTS / "model.json", WEIGHTS / "model.safetensors")
    result = pipeline.extract(DEMO / "mixture.wav", "the sound of the drums")
    paths = result.save(DEMO / "in_python")
    print(f"Wrote {paths[0]}: {result.info['tracks']['drums']}")


if __name__ == "__main__":
    main()
