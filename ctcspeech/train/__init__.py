"""A training run: its configuration, data, steps, validation and log."""
