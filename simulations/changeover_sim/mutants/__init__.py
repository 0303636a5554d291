"""Planted bugs: small patches of the real engine, each of which an oracle has to find."""
