"""Accepts connections and answers the messages on them."""
