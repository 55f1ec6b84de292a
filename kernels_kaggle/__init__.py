"""The way to Kaggle: ``at_home`` packs, pushes and submits what ``on_kaggle`` then runs there."""
