"""Reports on sweeps: one module a study, and the tables, figures and pages that show them."""
