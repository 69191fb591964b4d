"""Metrics: each file measures samples in one way, and says how its figures are labelled.

A new one is a new file here, or a file of the user's: `evaluation.metrics: [my_file.py:Name]`. See
base.py for what it says of itself.
"""
