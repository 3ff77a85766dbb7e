"""Pictures as data: what a scan finds, and what is kept of it."""
