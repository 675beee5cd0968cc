"""Autoregressive flows: a transformer for each number, a conditioner of the numbers before it."""
