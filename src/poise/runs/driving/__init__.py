"""What drives a training from outside: what ends it early, own loops, and a folder that is given."""
