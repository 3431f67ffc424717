"""Draws four activations with their derivatives to a file."""

import sys

import fastact

names = ("relu", "gelu", "leaky_relu")
fastact.plot(*names, fastact.ELU(alpha=0.5), negative_slope=0.2, derivatives=2, range=(-6, 6), file=sys.argv[1])
