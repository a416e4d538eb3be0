"""Parts of networks: quantizers, convolutions and the operations of a search space."""
