"""Plans, the policies that make them, and the cut that carries them out."""
