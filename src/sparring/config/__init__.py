"""From YAML to checked settings.

What is wrong is a `UserError`, one line that names the file or override, the key and what may be.
"""
