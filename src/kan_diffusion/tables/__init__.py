"""Tables: a wing of the package, with all that belongs to rows of mixed columns."""
