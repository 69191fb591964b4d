"""What every room stands on: errors, the terminal, files, the cache, a user's own code."""
