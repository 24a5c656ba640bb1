"""Timesteps, objective, the Lightning module around them and its demo callback."""
