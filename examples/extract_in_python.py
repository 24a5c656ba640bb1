"""Extract a source in Python; `make demo` writes the song that it needs."""

import mge_plugin


def main() -> None:
    """Extract the drums of the demo's song."""
    pipeline = mge_plugin.load()
    result = pipeline.extract("demo/mixture.wav", "the sound of the drums")
    paths = result.save("demo/in_python")
    print(f"Wrote {paths[0]}: {result.info['tracks']['drums']}")


if __name__ == "__main__":
    main()
