"""The training loop, its order of posts, its checkpoints: plain torch."""
