"""Parts of a training that the user has written: networks."""
