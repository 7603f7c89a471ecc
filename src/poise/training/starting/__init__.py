"""Policies from demonstrations, and settings of the environments that follow a curriculum."""
