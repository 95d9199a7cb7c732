"""Reports on sweeps: statistics, tables, figures, pages."""
