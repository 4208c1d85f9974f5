"""The parts of the layer benchmark: what is measured, how, and what is written about it."""
