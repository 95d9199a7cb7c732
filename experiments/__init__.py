"""Experiments over the zoo: a Hydra main (`ablate`) and the report on what it left (`report`)."""
