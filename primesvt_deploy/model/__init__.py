"""A trained SViT: loading, checking and adopting it."""
