"""Deterministic simulation of whole systems, see the README of this folder."""
