"""Measurements of the running service, one script per question; README.md says how to read them."""
