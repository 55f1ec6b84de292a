"""The way to Kaggle: the notebook, the data set of weights, pushing and submitting."""
