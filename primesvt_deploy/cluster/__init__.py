"""Workers of a search or a training: processes on this machine or a cluster, started by Ray."""
