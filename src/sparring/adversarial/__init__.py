"""The parts of adversarial training: who judges, what it looks at, and how a sample is drawn."""
