"""The SQLite adapter: what it promises, its tables, and the process that writes."""
