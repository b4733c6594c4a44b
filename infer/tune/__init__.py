"""`infer tune`: sampler settings of an adapter, chosen by the bands that they make.

Imports infer/evaluate/ (for its measures) and what is below it.
"""
