"""Deletion of users' posts from an output and from what was made for training, and the proof of it (`tag.py forget`)."""
