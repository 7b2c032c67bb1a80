"""The networks that tasks train: small, and free of hidden state, so that ``vmap`` runs them."""
