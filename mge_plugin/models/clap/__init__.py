"""CLAP (arXiv 2211.06687): texts and audio in one space, by laion-clap's own code and weights."""
