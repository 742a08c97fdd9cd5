"""Captions images and answers questions about them. CONTRIBUTING.md lists the rooms in their order."""
