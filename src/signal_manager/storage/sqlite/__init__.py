"""The SQLite adapter, its tables, and the process that writes the file."""
