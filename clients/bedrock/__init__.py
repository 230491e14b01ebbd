"""Bedrock's clients against a running server."""
