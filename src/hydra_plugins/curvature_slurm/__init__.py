"""Hydra finds ``hydra/launcher=slurm`` here. Plugins are imported at every start, so this stays light."""
