"""What a training computes on, and compiled in how many pieces. A CPU and a GPU differ in the last digits."""
