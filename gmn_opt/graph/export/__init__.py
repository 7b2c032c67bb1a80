"""Parameter graphs in the forms of others: torch_geometric, networkx, JSON."""
