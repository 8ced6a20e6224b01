"""Files of settings: what `--config` reads, `--show-config` prints, and their JSON schema."""
