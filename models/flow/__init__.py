"""The mathematics: schedules, the path between data and noise, guidance, windows, how the vocal enters, sampling.

Knows no files. Imports models/acestep1/transformer/ and common/.
"""
