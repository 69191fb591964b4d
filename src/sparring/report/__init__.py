"""Runs side by side as one self-contained HTML page. It reads; it computes no figure."""
