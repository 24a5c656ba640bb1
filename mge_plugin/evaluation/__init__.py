"""Metrics and protocols that judge what the tasks produce."""
