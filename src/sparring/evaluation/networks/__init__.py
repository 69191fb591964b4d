"""Networks that look at samples: extractors of features, judges of captions, distances."""
