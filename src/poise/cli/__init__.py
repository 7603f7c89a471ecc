"""The command line: the last layer, which only reads arguments and prints."""
