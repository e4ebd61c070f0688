"""The documentation's site: pages that are made from the code, and what public names must say of themselves."""
