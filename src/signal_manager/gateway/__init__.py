"""Accepts connections and answers what is said on them."""
