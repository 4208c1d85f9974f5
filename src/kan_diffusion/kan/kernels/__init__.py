"""The evaluation of a layer: torch's own operations, or a compiled kernel."""
