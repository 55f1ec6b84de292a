"""What is known before a model exists: grids, tasks, views, tokens and the plan of a data set."""
