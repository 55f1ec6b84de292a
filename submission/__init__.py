"""From predictions to points: votes, submission.json and scores. Runs without torch."""
