"""Follow a forward pass, and label every axis of every tensor in it."""
