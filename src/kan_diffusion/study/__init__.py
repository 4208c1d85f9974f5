"""Studies: many trials and the comparison drawn from them."""
