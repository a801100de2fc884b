"""Lightning modules that papers share."""
