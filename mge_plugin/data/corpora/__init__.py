"""Multi-track corpora on disk: one short reader each, behind one song index."""
