"""The packages an extension can carry for the engine: which, from where, and the build that packs them."""
