"""The contest that `gmn-opt demo` shows: GMNOptimizer against AdamW on real images."""
