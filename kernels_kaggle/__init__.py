"""The way to Kaggle: notebook, data set of weights, push and submit. Nothing is built here yet."""
