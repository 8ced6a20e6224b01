"""Everything that runs on a device; nothing here needs torch."""
