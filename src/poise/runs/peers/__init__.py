"""One training in several processes, usually on several machines."""
