"""What `gmn-opt bench` compares optimizers with; experiments use the same contestants and loop."""
