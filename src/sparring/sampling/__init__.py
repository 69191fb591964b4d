"""From noise to data: diffusers' samplers around a `Denoiser`, cleaning, samples as files."""
