"""Training: settings, the loop and its callbacks, batches of its steps, updates of parameters."""
