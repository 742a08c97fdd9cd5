"""Names, plans, describes and opens an output folder."""
