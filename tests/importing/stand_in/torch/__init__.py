"""There, so that it counts as installed."""
