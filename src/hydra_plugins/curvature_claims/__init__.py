"""Hydra plugin: the claims sweeper."""
