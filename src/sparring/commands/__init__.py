"""What each `sparring` command does; cli.py says how it is spelled."""
