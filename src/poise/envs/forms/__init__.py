"""The forms that an environment is given in: a name with arguments and wrappers, a class, a function, an object."""
