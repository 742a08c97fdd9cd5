"""Arms side by side: what finished outputs of the same requests cost, and how far their answers agree."""
