"""What several commands use: options that read alike, the files that they write, their device."""
