"""The demo: two real classifiers on handwritten digits, trained here and swapped under load.

Owns no state and spawns nothing by itself; needs `pip install "changeover[demo]"`.
"""
