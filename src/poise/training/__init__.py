"""Where policy and environments meet: acting, collecting rollouts, and the loop that yields progress."""
