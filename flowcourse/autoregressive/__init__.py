"""Autoregressive models: the chain rule, one dimension after the other."""
