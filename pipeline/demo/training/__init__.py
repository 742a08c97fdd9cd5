"""How the demo checkpoint is made: pictures, tower, language model, export."""
