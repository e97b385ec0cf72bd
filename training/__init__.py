"""Training of the starter model: synthetic heads, generator, encoders, evaluation. Not part of the extension."""
