"""What every room stands on: errors, the terminal, files, the cache, a user's own code.

What a user can put right is a `UserError`, one line that names the file, the key or the word.
"""
