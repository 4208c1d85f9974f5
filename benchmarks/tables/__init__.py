"""The benchmark of tables: what makes synthetic rows, and fills gaps, beside what."""
