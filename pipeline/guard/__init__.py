"""What stands around a stage so that a unit which kills its workers cannot stop a run."""
