"""Pictures: a wing of the package, with all that belongs to pictures and prompts."""
