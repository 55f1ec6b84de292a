"""What runs at home: write the package of a run, push it to Kaggle, follow it and submit it."""
