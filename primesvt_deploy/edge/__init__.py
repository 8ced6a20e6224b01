"""All that runs on a device, and nothing that needs torch."""
