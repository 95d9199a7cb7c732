"""Pages of the documentation that are made from results and from the code."""
