"""What evaluations keep: the reference read once, parts of tables, figures under their keys."""
