"""What the theory of graph metanetworks needs: computation graphs, and the general form."""
