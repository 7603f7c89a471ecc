"""What a training starts from: a trained agent, or demonstrations."""
