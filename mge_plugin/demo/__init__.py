"""`mge demo`: a small corpus, a toy model trained on it, and a page to listen to."""
