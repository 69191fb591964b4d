"""From settings to objects: data, model, objective, discriminator, and what a run will need.

What they refuse is a `UserError`, one line that names the setting and what works.
"""
