"""What is optimized: data sets and the tasks made of them."""
