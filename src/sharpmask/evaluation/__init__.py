"""Proposals to numbers: average recall, boundary quality, reports."""
