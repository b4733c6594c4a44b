"""Many short runs on one base: the study, its queue, its trials and its report.

Imports the other wings of train/.
"""
