"""A failure told to people and to machines: in a terminal, on a page, as JSON.

Owns nothing and runs nothing: pure functions from values to text.
"""
