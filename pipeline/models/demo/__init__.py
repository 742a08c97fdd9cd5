"""Makes the checkpoints behind `demo:` names: the trained one and random ones of any size."""
