"""Telemetry during the load: readings of the GPUs and of the server's metrics, taken by a separate process."""
