"""Hydra plugin: DomainBed's sweep."""
