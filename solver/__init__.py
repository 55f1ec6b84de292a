"""TRM, HRM and a plain transformer: networks, training, test-time training and prediction."""
