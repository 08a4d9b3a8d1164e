"""Failing system calls: each call site of a command fails once with each of its errors, and the command is judged."""
