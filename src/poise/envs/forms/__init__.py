"""The forms in which an environment is given: arguments, wrappers, a class, a function, an object."""
