"""What is run on the package rather than in a network: accuracy, validation, compiling ahead, pictures, thresholds.

Everything here may import the rest of the package; nothing outside imports it, but for `fastact.__main__` and, when
they are called, the functions that draw.
"""
