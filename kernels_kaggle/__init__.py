"""The way to Kaggle: data set of weights and program, notebooks, push and submit."""
