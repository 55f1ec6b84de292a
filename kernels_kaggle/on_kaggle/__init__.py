"""What runs on Kaggle: both notebooks, and what they call. Their process never imports torch."""
