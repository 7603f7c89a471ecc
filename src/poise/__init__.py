"""poise: Proximal Policy Optimization that trains, shows and keeps an agent with one command."""
