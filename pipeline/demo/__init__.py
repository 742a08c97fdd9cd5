"""Draws scenes with known answers, asks about them and scores what is answered."""
