"""The published comparison of schedule explorers, run again: kernels, ports, policies, 20 seeds each, and its table."""
