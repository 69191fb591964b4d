"""A file for each domain of `known_answers.py`."""
