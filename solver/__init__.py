"""The Tiny Recursion Model: the network, training, test-time training and prediction."""
