"""Where networks are computed: the device, its arithmetic, batches that fit its memory."""
