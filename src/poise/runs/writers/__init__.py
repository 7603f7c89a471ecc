"""What a training writes after each iteration."""
