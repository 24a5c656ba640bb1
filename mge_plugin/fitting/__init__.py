"""Small parts that are fitted in minutes, so that a model can be trained where no weights are."""
