"""The contest that `gmn-opt demo` shows: GMNOptimizer beside AdamW on real images."""
