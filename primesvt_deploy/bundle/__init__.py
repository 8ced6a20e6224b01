"""A bundle on disk: written whole or not at all."""
