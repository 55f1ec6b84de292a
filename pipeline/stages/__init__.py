"""The stages: each goes from files to files, can be run again alone, and resumes."""
