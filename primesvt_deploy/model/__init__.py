"""A trained SViT: loaded, checked, adopted."""
