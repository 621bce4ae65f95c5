"""A model folder and posts in, ranked hashtags out: the one path of evaluation, tagging and notebooks."""
