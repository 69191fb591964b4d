"""From settings to objects: data, model, objective, discriminator, and what a run will need."""
