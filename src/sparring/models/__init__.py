"""Models on disk and the parts around a network: text encoders, latents, LoRA, cards."""
