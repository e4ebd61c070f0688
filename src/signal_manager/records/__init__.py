"""The service's records of clients, and the housekeeping of all records."""
