"""The backline-demo command: prep, train and infer in turn. Imports all of them."""
