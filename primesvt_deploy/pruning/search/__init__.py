"""Candidate plans and their accuracy on the search split."""
