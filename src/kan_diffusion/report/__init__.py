"""Pages and figures that say how a study went, what a network has learned and how points move."""
