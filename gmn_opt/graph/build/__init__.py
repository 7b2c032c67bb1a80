"""From what a traced pass left behind to a parameter graph."""
