"""Images in shards: tar files and tables, read in pieces that lie together."""
