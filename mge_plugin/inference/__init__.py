"""Schedules, samplers and the tasks built on them."""
