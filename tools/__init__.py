"""Programs for those who develop signal-manager; nothing here is installed."""
