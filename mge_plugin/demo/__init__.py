"""`mge demo`: the weights that ship, on a song that they never saw, and a page to listen to."""
