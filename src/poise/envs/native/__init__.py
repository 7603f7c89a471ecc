"""Environments in JAX: those of poise, of users, and of other packages, each of which is an extra."""
