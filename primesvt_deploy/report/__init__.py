"""What a build tells people: an HTML page."""
