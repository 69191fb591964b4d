"""Figures besides those of samples: curves, fields, attacks, cleaned images."""
