"""What the experiments on generated networks share."""
