"""Stems on disk to (mixture, submixture, source) triplets."""
