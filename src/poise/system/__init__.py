"""The machine and the operating system: signals, streams, cores, processes, caches."""
