"""Run artifacts on emulated ARM CPUs, where there is no board."""
