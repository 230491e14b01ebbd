"""Volcengine's own clients against Pentimento's server. (The folder is not called `volcengine`, since their package is.)"""
