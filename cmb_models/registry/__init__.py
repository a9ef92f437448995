"""Releases: registering a workspace's bundle in MLflow, promoting and rolling back by alias, and the log of who did what.

mlflow is imported inside functions only, so that the commands' help stays quick.
"""
