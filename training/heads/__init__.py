"""Synthetic heads to train on: made from parametric people, CC0 skins and hair, and rendered from all around."""
