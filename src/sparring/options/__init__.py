"""What a constructor says a config may set: sections made of signatures, types of values."""
