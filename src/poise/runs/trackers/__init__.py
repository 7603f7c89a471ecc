"""Where metrics go besides the tables of the run folder."""
