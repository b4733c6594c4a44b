"""The newcomer's command, over everything."""
