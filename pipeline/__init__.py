"""The commands: recipes, sources of tasks, and the stages from tasks to a scored submission."""
