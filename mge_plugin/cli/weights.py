"""Commands on files of weights."""
