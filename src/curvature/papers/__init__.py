"""One LightningModule per paper: its loss and its metrics."""
