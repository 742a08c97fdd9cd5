"""Whether an output is all there: by itself, and held against its source."""
