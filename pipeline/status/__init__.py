"""How far a run is, told from its output alone: nothing is written, and the run is not asked."""
