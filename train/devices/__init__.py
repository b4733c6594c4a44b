"""The processes and devices of a run: who holds what, and what happens when one of them dies.

Imports train/config.py and models/.
"""
