"""`gmn-opt meta-train`: a rule of one's own for GMNOptimizer."""
