"""Jobs of the commands, stage by stage: build, prune, export, analyze, frontier."""
