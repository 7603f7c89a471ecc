"""One training and its folder: options, session, tables, records."""
