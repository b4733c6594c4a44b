"""What is trained and what plays beside it: LoRA, the folder of an adapter, several at once, foreign LoRAs.

Imports the wings acestep1, loading and flow.
"""
