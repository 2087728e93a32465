"""What a node measures beside the load: readings of GPUs and of the server's metrics, taken by a process of their own."""
