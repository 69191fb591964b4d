"""Formulas of diffusion: schedules, noise, parametrisations, solver steps, seeded randomness."""
