"""Scoring stored images: rows, their reduction to scores."""
