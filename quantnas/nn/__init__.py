"""Parts of networks: quantizers, convolutions, operations."""
