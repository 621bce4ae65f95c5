"""Entry points: parse, connect, call one core function, print a summary."""
