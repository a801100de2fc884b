"""Lightning data modules; their randomness is a function of (seed, epoch, example)."""
