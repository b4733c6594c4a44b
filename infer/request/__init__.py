"""What was asked for: the vocal, the words, the settings that hold, what the result is called, and its record.

Imports infer/audio/, models/ and shards/.
"""
