"""The tagged output: a Delta table of tagged posts, one of rejected rows, and the state that tells what is done."""
