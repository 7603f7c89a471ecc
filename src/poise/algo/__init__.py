"""PPO as functions of arrays: no environment, file, clock or terminal. `update.py` is read first."""
