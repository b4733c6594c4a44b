"""The shard format: the only seam between prep and train. Data may lie beside these modules; see .gitignore."""
