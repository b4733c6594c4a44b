"""What each container says about its own length: read from its bytes, so that no decoder's guess is trusted.

Imports only common/errors.py.
"""
